package androidx.test.runner.intent;

/** As in InstrumentationRegistry: declared for Robolectric. No test stubs intents. */
public final class IntentStubberRegistry {
    private IntentStubberRegistry() {}

    public static boolean isLoaded() {
        return false;
    }

    public static IntentStubber getInstance() {
        throw new IllegalStateException();
    }
}
