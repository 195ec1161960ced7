package org.dgemma.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;
import static org.robolectric.Shadows.shadowOf;

import android.app.Activity;
import android.content.Intent;
import android.net.Uri;
import android.widget.LinearLayout;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Map;
import org.dgemma.format.Json;
import org.dgemma.runtime.Target;
import org.junit.Before;
import org.junit.Test;
import org.robolectric.Robolectric;
import org.robolectric.android.controller.ActivityController;

/** The benchmark on the real library, asked for by a person and by an intent. */
public final class BenchmarkActivityTest extends AppTest {
    @Before
    public void need() {
    }

    private static Map<?, ?> map(Object value, String key) {
        return (Map<?, ?>) ((Map<?, ?>) value).get(key);
    }

    private BenchmarkActivity measured() {
        chat();
        ActivityController<BenchmarkActivity> control = Robolectric.buildActivity(BenchmarkActivity.class).setup();
        BenchmarkActivity screen = control.get();
        File folder = app.holder().folder();
        app.measure(new BenchmarkRun(() -> app.bench(folder, 0.5, null, 1, Target.AUTO), new DeviceInfo(app), folder.getName()));
        control.pause().resume();
        assertTrue(shown(screen, R.id.progress));
        BenchmarkRun run = app.benchmark();
        control.recreate();
        assertEquals("a rotation keeps it", run, app.benchmark());
        await("it has ended", run::ended);
        assertNull(run.problem());
        return control.get();
    }

    @Test
    public void resultsAreShownSharedAndSaved() throws IOException {
        BenchmarkActivity screen = measured();
        layout(screen);
        picture(screen, "benchmark");
        assertTrue(shown(screen, R.id.results));
        String bars = screen.findViewById(R.id.bars).getContentDescription().toString();
        assertTrue(bars, bars.contains("Diffusion") && bars.contains("Token by token"));
        assertTrue(((LinearLayout) screen.findViewById(R.id.table)).getChildCount() >= 5);

        screen.findViewById(R.id.share).performClick();
        Intent chooser = shadowOf(screen).getNextStartedActivity();
        assertEquals(Intent.ACTION_CHOOSER, chooser.getAction());
        Intent send = chooser.getParcelableExtra(Intent.EXTRA_INTENT, Intent.class);
        Object shared = Json.parse(send.getStringExtra(Intent.EXTRA_TEXT));
        assertEquals("bench", ((Map<?, ?>) shared).get("benchmark"));
        assertTrue(map(map(shared, "groups").values().iterator().next(), "autoregressive").containsKey("tokens_per_s"));
        assertTrue(map(map(shared, "device"), "after").containsKey("memory"));

        Uri target = Uri.parse("content://files/bench.json");
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        shadowOf(screen.getContentResolver()).registerOutputStream(target, out);
        screen.findViewById(R.id.save).performClick();
        Intent asked = shadowOf(screen).getNextStartedActivityForResult().intent;
        shadowOf(screen).receiveResult(asked, Activity.RESULT_OK, new Intent().setData(target));
        assertEquals(send.getStringExtra(Intent.EXTRA_TEXT), new String(out.toByteArray(), StandardCharsets.UTF_8));
    }

    @Test
    public void backCancels() {
        chat();
        BenchmarkActivity screen = Robolectric.buildActivity(BenchmarkActivity.class).setup().get();
        screen.findViewById(R.id.run).performClick();
        BenchmarkRun run = app.benchmark();
        assertEquals(screen.getString(R.string.cancel), text(screen, R.id.run));
        screen.onBackPressed();
        assertFalse(screen.isFinishing());
        await("it has ended", run::ended);
        assertNull(run.result());
        assertNull(run.problem());
        assertFalse(shown(screen, R.id.progress));
        screen.onBackPressed();
        assertTrue(screen.isFinishing());
    }

    private BenchmarkActivity headless(Intent intent) {
        intent.setAction(Headless.ACTION);
        BenchmarkActivity screen = Robolectric.buildActivity(BenchmarkActivity.class, intent).setup().get();
        await("it has ended", () -> app.benchmark().ended());
        return screen;
    }

    @Test
    public void anIntentMeasuresWritesAndEnds() throws IOException {
        File folder = app.getExternalFilesDir(null);
        File error = new File(folder, Headless.ERROR);
        assertTrue(error.createNewFile());
        Intent intent = new Intent();
        intent.putExtra("bundle", "tiny");
        intent.putExtra("seconds", 1);
        intent.putExtra("engine", "onnx");
        intent.putExtra("threads", 1);
        BenchmarkActivity screen = headless(intent);
        assertTrue(screen.isFinishing());
        assertFalse("the error of an earlier run is gone", error.exists());
        Object result = Json.parse(Files.readAllBytes(new File(folder, Headless.RESULT).toPath()));
        assertEquals("onnx", map(result, "of").get("engine"));
        assertEquals(1L, map(result, "of").get("threads"));
        assertEquals(android.os.Build.MODEL, map(result, "device").get("model"));
        for (String name : folder.list()) {
            assertFalse(name, name.startsWith(".bench"));
        }
    }

    @Test
    public void anIntentThatCannotBeServedLeavesOneLine() throws IOException {
        File folder = app.getExternalFilesDir(null);
        headless(new Intent().putExtra("bundle", "nothing"));
        String line = error(folder);
        assertTrue(line, line.startsWith("no bundle nothing on this device; choose one of tiny.dgemma"));
        headless(new Intent().putExtra("seconds", -1));
        assertTrue(error(folder), error(folder).startsWith("seconds -1"));
        headless(new Intent().putExtra("engine", "none"));
        assertTrue(error(folder), error(folder).contains("none"));
        assertFalse(new File(folder, Headless.RESULT).exists());
    }

    private static String error(File folder) throws IOException {
        String text = new String(
                Files.readAllBytes(new File(folder, Headless.ERROR).toPath()), StandardCharsets.UTF_8);
        assertEquals("one line", text.length() - 1, text.indexOf('\n'));
        return text;
    }
}
