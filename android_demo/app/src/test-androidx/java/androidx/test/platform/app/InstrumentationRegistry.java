package androidx.test.platform.app;

import android.app.Instrumentation;
import android.os.Bundle;

/** Declared for Robolectric, as far as it links: the library androidx.test:monitor is in Google's Maven only. */
public final class InstrumentationRegistry {
    private static Instrumentation instrumentation;

    private InstrumentationRegistry() {}

    public static void registerInstance(Instrumentation value, Bundle arguments) {
        instrumentation = value;
    }

    public static Instrumentation getInstrumentation() {
        return instrumentation;
    }
}
