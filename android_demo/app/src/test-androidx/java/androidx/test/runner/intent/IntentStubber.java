package androidx.test.runner.intent;

import android.app.Instrumentation;
import android.content.Intent;

/** As in InstrumentationRegistry: declared for Robolectric. */
public interface IntentStubber {
    Instrumentation.ActivityResult getActivityResultForIntent(Intent intent);
}
