package androidx.test.runner.lifecycle;

import android.app.Activity;

/** As in InstrumentationRegistry: declared for Robolectric. */
public interface ActivityLifecycleMonitor {
    Stage getLifecycleStageOf(Activity activity);
}
