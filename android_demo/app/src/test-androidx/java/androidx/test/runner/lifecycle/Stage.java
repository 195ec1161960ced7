package androidx.test.runner.lifecycle;

/** As in InstrumentationRegistry: declared for Robolectric. */
public enum Stage { PRE_ON_CREATE, CREATED, STARTED, RESUMED, PAUSED, STOPPED, RESTARTED, DESTROYED }
