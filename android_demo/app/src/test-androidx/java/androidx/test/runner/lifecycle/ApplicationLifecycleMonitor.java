package androidx.test.runner.lifecycle;

/** As in InstrumentationRegistry: declared for Robolectric. */
public interface ApplicationLifecycleMonitor {}
