package org.dgemma.demo;

import static org.junit.Assert.assertTrue;
import static org.robolectric.Shadows.shadowOf;

import android.app.Activity;
import android.graphics.Bitmap;
import android.graphics.Canvas;
import android.os.Looper;
import android.view.View;
import android.widget.TextView;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.util.function.BooleanSupplier;
import org.junit.After;
import org.junit.Assume;
import org.junit.Before;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.android.controller.ActivityController;

/** What the tests of activities share. All of them run in one sandbox, because ONNX Runtime loads once in a process. */
@RunWith(RobolectricTestRunner.class)
public abstract class AppTest {
    static final File ROOT = new File(System.getProperty("dgemma.root"));
    /** The bundle in the app's assets. */
    static final File SHIPPED = new File(ROOT, "src/dgemma/bundles/tiny.dgemma");
    static final File FLOAT = new File(ROOT, "build/tiny.dgemma");

    private static final int MOST_BYTES = 150_000;

    DemoApp app;

    @Before
    public void openApp() {
        app = (DemoApp) RuntimeEnvironment.getApplication();
        app.settings().slowMotion(false);
    }

    @After
    public void closeApp() throws InterruptedException {
        BenchmarkRun run = app.benchmark();
        if (run != null) {
            run.cancel();
        }
        app.holder().release();
        Thread waiter = new Thread(() -> {});
        app.holder().afterwards(waiter::start);
        await("the model is closed", () -> waiter.getState() == Thread.State.TERMINATED);
    }

    static void needFloatBundle() {
        Assume.assumeTrue(
                "SKIPPED: no build/tiny.dgemma; dgemma export checkpoints/tiny --out build/tiny.dgemma",
                        FLOAT.isDirectory());
    }

    static void idle() {
        shadowOf(Looper.getMainLooper()).idle();
    }

    /** Run the main thread until something holds; the limit is for machines that are busy with other things. */
    static void await(String what, BooleanSupplier holds) {
        long end = System.nanoTime() + 120_000_000_000L;
        while (!holds.getAsBoolean()) {
            assertTrue("2 minutes have passed, and not: " + what, System.nanoTime() < end);
            idle();
            try {
                Thread.sleep(2);
            } catch (InterruptedException error) {
                throw new AssertionError(error);
            }
        }
        idle();
    }

    ActivityController<ChatActivity> chat() {
        ActivityController<ChatActivity> chat = Robolectric.buildActivity(ChatActivity.class).setup();
        await("the bundle is open", () -> app.holder().state() == ModelHolder.State.READY
                || app.holder().state() == ModelHolder.State.BROKEN);
        return chat;
    }

    void say(Activity chat, String prompt) {
        ((TextView) chat.findViewById(R.id.prompt)).setText(prompt);
        chat.findViewById(R.id.send).performClick();
        idle();
    }

    void awaitAnswer() {
        await("the run has ended", () -> !app.holder().running());
    }

    static TurnView turn(Activity chat, int index) {
        return (TurnView) ((android.view.ViewGroup) chat.findViewById(R.id.turns)).getChildAt(index);
    }

    static String text(View parent, int id) {
        return ((TextView) parent.findViewById(id)).getText().toString();
    }

    static String text(Activity screen, int id) {
        return ((TextView) screen.findViewById(id)).getText().toString();
    }

    static boolean shown(Activity screen, int id) {
        return screen.findViewById(id).getVisibility() == View.VISIBLE;
    }

    static void layout(Activity screen) {
        idle();
        View root = screen.getWindow().getDecorView();
        root.measure(
                View.MeasureSpec.makeMeasureSpec(root.getWidth(), View.MeasureSpec.EXACTLY),
                View.MeasureSpec.makeMeasureSpec(root.getHeight(), View.MeasureSpec.EXACTLY));
        root.layout(0, 0, root.getWidth(), root.getHeight());
    }

    /**
     * Draw a screen with Robolectric's native graphics. {@code -Dscreenshots=FOLDER} keeps the picture; without it, it
     * is judged by its size alone.
     */
    static void picture(Activity screen, String name) throws IOException {
        View root = screen.getWindow().getDecorView();
        Bitmap picture = Bitmap.createBitmap(root.getWidth(), root.getHeight(), Bitmap.Config.ARGB_8888);
        root.draw(new Canvas(picture));
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        picture.compress(Bitmap.CompressFormat.PNG, 100, bytes);
        assertTrue(name + " is drawn", bytes.size() > 5_000);
        assertTrue(name + " takes " + bytes.size(), bytes.size() <= MOST_BYTES);
        String folder = System.getProperty("screenshots", "");
        if (!folder.isEmpty()) {
            try (FileOutputStream out = new FileOutputStream(new File(folder, name + ".png"))) {
                out.write(bytes.toByteArray());
            }
        }
    }
}
