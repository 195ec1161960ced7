package androidx.test.runner.lifecycle;

/** As in InstrumentationRegistry: declared for Robolectric. */
public enum ApplicationStage { PRE_ON_CREATE, CREATED }
