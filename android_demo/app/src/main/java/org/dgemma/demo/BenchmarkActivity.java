package org.dgemma.demo;

import android.app.Activity;
import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.view.View;
import android.view.ViewGroup;
import android.widget.Button;
import android.widget.LinearLayout;
import android.widget.ProgressBar;
import android.widget.TextView;
import android.widget.Toast;
import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Locale;
import java.util.Map;
import org.dgemma.runtime.Target;
import org.jspecify.annotations.Nullable;

/**
 * Measures the open bundle and shows, shares and saves the result; or, started by adb with {@link Headless#ACTION},
 * measures the bundle that is named, writes the result to the app's external files and ends.
 */
public final class BenchmarkActivity extends Activity implements BenchmarkRun.Observer {
    private static final int SAVE = 1;

    private DemoApp app;

    @Override
    protected void onCreate(@Nullable Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.activity_benchmark);
        Screens.fitInsets(findViewById(R.id.root));
        Screens.titleBar(this, getString(R.string.benchmark));
        app = (DemoApp) getApplication();
        findViewById(R.id.run).setOnClickListener(view -> runOrCancel());
        findViewById(R.id.share).setOnClickListener(view -> share());
        findViewById(R.id.save).setOnClickListener(view -> save());
        if (saved == null) {
            headless(getIntent());
        }
    }

    @Override
    protected void onNewIntent(Intent intent) {
        super.onNewIntent(intent);
        headless(intent);
    }

    private void headless(Intent intent) {
        if (Headless.ACTION.equals(intent.getAction())) {
            new Headless(app, intent).start();
        }
    }

    @Override
    protected void onResume() {
        super.onResume();
        showDevice();
        watch(this);
        onBenchmarkChanged(app.benchmark());
    }

    @Override
    protected void onPause() {
        watch(null);
        super.onPause();
    }

    private void watch(BenchmarkRun.@Nullable Observer observer) {
        BenchmarkRun run = app.benchmark();
        if (run != null) {
            run.observe(observer);
        }
    }

    private boolean running() {
        BenchmarkRun run = app.benchmark();
        return run != null && !run.ended();
    }

    private void runOrCancel() {
        BenchmarkRun run = app.benchmark();
        if (run != null && !run.ended()) {
            run.cancel();
            onBenchmarkChanged(run);
            return;
        }
        File folder = app.holder().folder();
        if (folder == null) {
            Screens.showError(
                    this, getString(R.string.error_benchmark), getString(R.string.no_bundle_open),
                    getString(R.string.choose_other), () -> startActivity(new Intent(this, BundlesActivity.class)));
            return;
        }
        app.measure(new BenchmarkRun(
                () -> app.bench(folder, DemoApp.BENCH_SECONDS, null, 0, Target.AUTO), new DeviceInfo(app), folder.getName()));
        watch(this);
        onBenchmarkChanged(app.benchmark());
    }

    @Override
    public void onBenchmarkChanged(@Nullable BenchmarkRun run) {
        boolean running = running();
        Button button = findViewById(R.id.run);
        button.setText(running ? R.string.cancel : run == null ? R.string.run_benchmark : R.string.run_again);
        findViewById(R.id.progress).setVisibility(running ? View.VISIBLE : View.GONE);
        getWindow().getDecorView().setKeepScreenOn(running);
        Map<String, Object> result = run == null ? null : run.result();
        findViewById(R.id.results).setVisibility(result == null ? View.GONE : View.VISIBLE);
        Screens.hideError(this);
        if (run == null) {
            return;
        }
        TextView stage = findViewById(R.id.stage);
        ProgressBar bar = findViewById(R.id.bar);
        String name = getString(R.string.running_bundle, run.name());
        stage.setText(run.cancelled() ? getString(R.string.stopping) : name + "\n" + run.stage());
        bar.setProgress((int) (1000 * run.done()));
        if (run.problem() != null) {
            Screens.showError(
                    this, getString(R.string.error_benchmark), run.problem(), getString(R.string.choose_other),
                    () -> startActivity(new Intent(this, BundlesActivity.class)));
        }
        if (result != null) {
            showResult(new BenchmarkFigures(getResources(), result));
        }
        if (run.ended()) {
            showDevice();
            if (run.headless()) {
                finish();
            }
        }
    }

    private void showResult(BenchmarkFigures figures) {
        BarsView bars = findViewById(R.id.bars);
        bars.show(figures.pairs());
        LinearLayout table = findViewById(R.id.table);
        table.removeAllViews();
        for (String[] row : figures.rows()) {
            ViewGroup line = (ViewGroup) getLayoutInflater().inflate(R.layout.row_figure, table, false);
            ((TextView) line.getChildAt(0)).setText(row[0]);
            ((TextView) line.getChildAt(1)).setText(row[1]);
            table.addView(line);
        }
    }

    private void showDevice() {
        DeviceInfo device = new DeviceInfo(this);
        Map<String, Object> fixed = device.fixed();
        String unknown = getString(R.string.unknown);
        Map<String, Object> battery = device.battery();
        String charge = unknown;
        if (battery != null) {
            boolean charging = Boolean.TRUE.equals(battery.get("charging"));
            charge = String.format(
                    Locale.getDefault(), getString(charging ? R.string.battery_charging : R.string.battery),
                    battery.get("level"), battery.get("temperature_c"));
        }
        String gib = BenchmarkFigures.format((Long) fixed.get("memory_bytes") / (double) (1 << 30), 1) + " GiB";
        TextView line = findViewById(R.id.device);
        line.setText(getString(
                R.string.device_line, fixed.get("manufacturer") + " " + fixed.get("model"), fixed.get("android"),
                device.soc() == null ? fixed.get("hardware") : device.soc(), gib,
                device.thermal() == null ? unknown : device.thermal(), charge));
    }

    private void share() {
        BenchmarkRun run = app.benchmark();
        if (run == null || run.json() == null) {
            return;
        }
        Intent send = new Intent(Intent.ACTION_SEND);
        send.setType("application/json");
        send.putExtra(Intent.EXTRA_SUBJECT, getString(R.string.share_subject, run.name()));
        send.putExtra(Intent.EXTRA_TEXT, run.json());
        startActivity(Intent.createChooser(send, null));
    }

    @SuppressWarnings("deprecation") // AndroidX has another, Android has not.
    private void save() {
        Intent create = new Intent(Intent.ACTION_CREATE_DOCUMENT);
        create.addCategory(Intent.CATEGORY_OPENABLE);
        create.setType("application/json");
        create.putExtra(Intent.EXTRA_TITLE, "dgemma-bench.json");
        try {
            startActivityForResult(create, SAVE);
        } catch (ActivityNotFoundException error) {
            Toast.makeText(this, getString(R.string.not_saved, getString(R.string.no_picker)),
                    Toast.LENGTH_LONG).show();
        }
    }

    @Override
    protected void onActivityResult(int request, int code, @Nullable Intent data) {
        super.onActivityResult(request, code, data);
        Uri uri = code == RESULT_OK && data != null ? data.getData() : null;
        BenchmarkRun run = app.benchmark();
        if (request != SAVE || uri == null || run == null || run.json() == null) {
            return;
        }
        String told;
        try (OutputStream out = getContentResolver().openOutputStream(uri)) {
            if (out == null) {
                throw new IOException(uri.toString());
            }
            out.write(run.json().getBytes(StandardCharsets.UTF_8));
            told = getString(R.string.saved);
        } catch (IOException | SecurityException error) {
            told = getString(R.string.not_saved, error.getMessage());
        }
        Toast.makeText(this, told, Toast.LENGTH_LONG).show();
    }

    /** Leaving cancels; a rotation does not. */
    @Override
    @SuppressWarnings("deprecation")
    public void onBackPressed() {
        BenchmarkRun run = app.benchmark();
        if (run != null && !run.ended()) {
            run.cancel();
            onBenchmarkChanged(run);
        } else {
            super.onBackPressed();
        }
    }
}
