package androidx.test.runner.lifecycle;

/** As in InstrumentationRegistry: declared for Robolectric. */
public final class ApplicationLifecycleMonitorRegistry {
    private ApplicationLifecycleMonitorRegistry() {}

    public static void registerInstance(ApplicationLifecycleMonitor value) {}
}
