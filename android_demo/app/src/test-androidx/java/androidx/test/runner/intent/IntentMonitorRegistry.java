package androidx.test.runner.intent;

/** As in InstrumentationRegistry: declared for Robolectric. */
public final class IntentMonitorRegistry {
    private IntentMonitorRegistry() {}

    public static void registerInstance(IntentMonitor value) {}
}
