package org.dgemma.demo;

import android.app.Activity;
import android.app.AlertDialog;
import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.text.format.Formatter;
import android.view.View;
import android.view.ViewGroup;
import android.widget.LinearLayout;
import android.widget.ProgressBar;
import android.widget.RadioButton;
import android.widget.TextView;
import java.io.File;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** The bundles on this device: choose one, add one from the file picker, delete one. */
public final class BundlesActivity extends Activity implements BundleCopy.Observer {
    private static final int PICK = 1;

    private DemoApp app;

    @Override
    protected void onCreate(@Nullable Bundle saved) {
        super.onCreate(saved);
        setContentView(R.layout.activity_bundles);
        Screens.fitInsets(findViewById(R.id.root));
        Screens.titleBar(this, getString(R.string.bundles));
        app = (DemoApp) getApplication();
        findViewById(R.id.add).setOnClickListener(view -> pick());
        findViewById(R.id.copy_cancel).setOnClickListener(view -> cancelCopy());
        File pushed = app.bundles().pushedFolder();
        TextView hint = findViewById(R.id.hint);
        hint.setText(getString(R.string.bundles_hint, pushed == null ? "" : pushed.getPath()));
    }

    @Override
    protected void onResume() {
        super.onResume();
        showList();
        watch(this);
    }

    @Override
    protected void onPause() {
        watch(null);
        super.onPause();
    }

    private void watch(BundleCopy.@Nullable Observer observer) {
        BundleCopy copy = app.copy();
        if (copy != null) {
            copy.observe(observer);
            if (observer != null) {
                onCopyChanged(copy);
            }
        }
    }

    private void showList() {
        LinearLayout list = findViewById(R.id.list);
        list.removeAllViews();
        File open = app.holder().folder();
        for (Bundles.Entry entry : app.bundles().list()) {
            View row = getLayoutInflater().inflate(R.layout.row_bundle, list, false);
            String detail = getString(
                    R.string.row_detail, getString(origin(entry)),
                    Formatter.formatShortFileSize(this, Bundles.size(entry.folder)));
            ((TextView) row.findViewById(R.id.row_name)).setText(entry.name);
            ((TextView) row.findViewById(R.id.row_detail)).setText(detail);
            RadioButton chosen = row.findViewById(R.id.row_chosen);
            chosen.setChecked(entry.folder.equals(open));
            row.setSelected(entry.folder.equals(open));
            row.setOnClickListener(view -> choose(entry));
            View delete = row.findViewById(R.id.row_delete);
            delete.setVisibility(entry.origin == Bundles.Origin.ADDED ? View.VISIBLE : View.GONE);
            delete.setContentDescription(getString(R.string.delete_bundle, entry.name));
            delete.setOnClickListener(view -> askDelete(entry));
            list.addView(row);
        }
    }

    private static int origin(Bundles.Entry entry) {
        switch (entry.origin) {
            case BUILT_IN:
                return R.string.origin_built_in;
            case ADDED:
                return R.string.origin_added;
            default:
                return R.string.origin_pushed;
        }
    }

    private void choose(Bundles.Entry entry) {
        app.choose(entry);
        finish();
    }

    private void askDelete(Bundles.Entry entry) {
        new AlertDialog.Builder(this)
                .setMessage(getString(R.string.delete_question, entry.name))
                .setNegativeButton(R.string.cancel, null)
                .setPositiveButton(R.string.delete, (dialog, which) -> delete(entry))
                .show();
    }

    /** A bundle that is open is put aside first, and the files go after it is closed. */
    private void delete(Bundles.Entry entry) {
        if (entry.folder.equals(app.holder().folder())) {
            List<Bundles.Entry> all = app.bundles().list();
            app.choose(all.get(0).folder.equals(entry.folder) && all.size() > 1 ? all.get(1) : all.get(0));
        }
        app.holder().afterwards(() -> {
            Bundles.delete(entry.folder);
            runOnUiThread(this::showList);
        });
    }

    @SuppressWarnings("deprecation") // AndroidX has another, Android has not.
    private void pick() {
        BundleCopy copy = app.copy();
        if (copy != null && !copy.ended()) {
            return;
        }
        try {
            startActivityForResult(new Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), PICK);
        } catch (ActivityNotFoundException error) {
            showError(getString(R.string.no_picker));
        }
    }

    @Override
    protected void onActivityResult(int request, int code, @Nullable Intent data) {
        super.onActivityResult(request, code, data);
        Uri tree = code == RESULT_OK && data != null ? data.getData() : null;
        if (request == PICK && tree != null) {
            BundleCopy copy = new BundleCopy(this, tree, app.bundles().addedFolder());
            app.copy(copy);
            copy.start();
            watch(this);
        }
    }

    private void cancelCopy() {
        BundleCopy copy = app.copy();
        if (copy != null) {
            copy.cancel();
        }
    }

    @Override
    public void onCopyChanged(BundleCopy copy) {
        boolean running = !copy.ended();
        findViewById(R.id.copying).setVisibility(running ? View.VISIBLE : View.GONE);
        findViewById(R.id.add).setEnabled(!running);
        Screens.hideError(this);
        TextView text = findViewById(R.id.copy_text);
        ProgressBar bar = findViewById(R.id.copy_progress);
        long total = copy.total();
        boolean copied = total > 0 && copy.done() >= total;
        text.setText(copied ? getString(R.string.verifying, copy.name())
                : getString(R.string.copying, copy.name(), size(copy.done()), size(total)));
        bar.setProgress(total == 0 ? 0 : (int) (1000 * copy.done() / total));
        if (!running) {
            app.copy(null);
            showList();
            if (copy.problem() != null) {
                showError(copy.problem());
            }
        }
    }

    private void showError(String line) {
        Screens.showError(
                this, getString(R.string.error_add), line, getString(R.string.dismiss), () -> Screens.hideError(this));
    }

    private String size(long bytes) {
        return Formatter.formatShortFileSize(this, bytes);
    }
}
