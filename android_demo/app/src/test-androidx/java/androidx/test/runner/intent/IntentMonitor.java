package androidx.test.runner.intent;

/** As in InstrumentationRegistry: declared for Robolectric. */
public interface IntentMonitor {}
