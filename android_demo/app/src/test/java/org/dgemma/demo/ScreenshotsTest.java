package org.dgemma.demo;

import static org.junit.Assert.assertTrue;

import android.widget.TextView;
import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.util.concurrent.CountDownLatch;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.GenerateOptions;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;
import org.robolectric.Robolectric;
import org.robolectric.RuntimeEnvironment;

/**
 * Pictures of the real screens from real runs; the benchmark's is taken where its results are tested.
 */
public final class ScreenshotsTest extends AppTest {
    /** Takes a few steps. */
    private static final String NUMBERS = "In words: 540 150 913 309 110 935 519 298 221";

    @Before
    public void need() {
    }

    @After
    public void day() {
        RuntimeEnvironment.setQualifiers("+en-ldltr-notnight");
        RuntimeEnvironment.setFontScale(1f);
    }

    /** The real model, held before a step so that a picture can be taken. */
    private static final class Held implements Model {
        private final Model model;
        private final int steps;
        final CountDownLatch go = new CountDownLatch(1);

        Held(Model model, int steps) {
            this.model = model;
            this.steps = steps;
        }

        @Override
        public String name() {
            return model.name();
        }

        @Override
        public String description() {
            return model.description();
        }

        @Override
        public int canvasLength() {
            return model.canvasLength();
        }

        @Override
        public int steps() {
            return model.steps();
        }

        @Override
        public int context() {
            return model.context();
        }

        @Override
        public boolean thinks() {
            return model.thinks();
        }

        @Override
        public void start(String prompt, GenerateOptions options, Listener listener) {
            model.start(prompt, options, new Listener() {
                private int count;

                @Override
                public void onFrame(Frame frame) {
                    if (prompt.length() > 30 && count++ == steps) {
                        try {
                            go.await();
                        } catch (InterruptedException error) {
                            throw new AssertionError(error);
                        }
                    }
                    listener.onFrame(frame);
                }

                @Override
                public void onDone(Summary summary) {
                    listener.onDone(summary);
                }

                @Override
                public void onFailed(DgemmaException error) {
                    listener.onFailed(error);
                }
            });
        }

        @Override
        public void cancel() {
            model.cancel();
        }

        @Override
        public void close() {
            go.countDown();
            model.close();
        }
    }

    /** A chat whose model stops before a step of the long prompts. */
    private ChatActivity heldChat(int steps) {
        Model.Opener real = SessionModel.opener(app.options());
        app.opener(folder -> new Held(real.open(folder), steps));
        return chat().get();
    }

    private void awaitSteps(ChatActivity chat, int turn, int steps) {
        await("so many steps", () -> app.holder().turns().get(turn).frames().size() == steps);
        layout(chat);
        CanvasView canvas = turn(chat, turn).findViewById(R.id.turn_canvas);
        canvas.show(canvas.frames(), true);
    }

    @Test
    public void light() throws IOException {
        ChatActivity chat = heldChat(2);
        picture(chat, "empty");
        say(chat, "Reverse the word lantern.");
        awaitAnswer();
        say(chat, NUMBERS);
        awaitSteps(chat, 1, 2);
        picture(chat, "denoising");
        ((Held) app.holder().model()).go.countDown();
        awaitAnswer();
        layout(chat);
        picture(chat, "finished");
        chat.findViewById(R.id.tune).performClick();
        layout(chat);
        picture(chat, "settings");
    }

    @Test
    public void dark() throws IOException {
        RuntimeEnvironment.setQualifiers("+night");
        ChatActivity chat = heldChat(1);
        say(chat, NUMBERS);
        awaitSteps(chat, 0, 1);
        picture(chat, "dark");
    }

    @Test
    public void brokenBundle() throws IOException {
        ChatActivity chat = chat().get();
        File damaged = new File(app.bundles().addedFolder(), "damaged.dgemma");
        BundlesActivityTest.copyTo(SHIPPED, damaged);
        try (RandomAccessFile file = new RandomAccessFile(new File(damaged, "onnx/weights.bin"), "rw")) {
            file.setLength(4096);
        }
        app.choose(app.bundles().named("damaged"));
        await("it is refused", () -> app.holder().state() == ModelHolder.State.BROKEN);
        Screens.showError(chat, text(chat, R.id.error_title), text(chat, R.id.error_text).replace(
                app.getFilesDir().getPath(), "…"), chat.getString(R.string.choose_other), () -> {});
        layout(chat);
        picture(chat, "broken");
    }

    @Test
    public void largeLettersFromTheRight() throws IOException {
        RuntimeEnvironment.setQualifiers("+ar-ldrtl");
        RuntimeEnvironment.setFontScale(1.6f);
        ChatActivity chat = chat().get();
        chat.findViewById(R.id.tune).performClick();
        say(chat, "Reverse the word lantern.");
        awaitAnswer();
        layout(chat);
        picture(chat, "large-rtl");
        assertTrue(chat.findViewById(R.id.send).getWidth() > 0);
    }

    @Test
    public void bundles() throws IOException {
        chat();
        BundlesActivity screen = Robolectric.buildActivity(BundlesActivity.class).setup().get();
        TextView hint = screen.findViewById(R.id.hint); // this machine's folder is none of a phone's
        hint.setText(screen.getString(R.string.bundles_hint, "/sdcard/Android/data/org.dgemma.demo/files/bundles"));
        layout(screen);
        picture(screen, "bundles");
    }
}
