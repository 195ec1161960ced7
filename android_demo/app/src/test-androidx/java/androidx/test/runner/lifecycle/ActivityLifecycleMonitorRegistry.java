package androidx.test.runner.lifecycle;

/** As in InstrumentationRegistry: declared for Robolectric. */
public final class ActivityLifecycleMonitorRegistry {
    private static ActivityLifecycleMonitor monitor;

    private ActivityLifecycleMonitorRegistry() {}

    public static void registerInstance(ActivityLifecycleMonitor value) {
        monitor = value;
    }

    public static ActivityLifecycleMonitor getInstance() {
        return monitor;
    }
}
