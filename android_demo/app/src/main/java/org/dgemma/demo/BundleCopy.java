package org.dgemma.demo;

import android.content.ContentResolver;
import android.content.Context;
import android.content.res.Resources;
import android.database.Cursor;
import android.net.Uri;
import android.os.Handler;
import android.os.Looper;
import android.provider.DocumentsContract;
import android.text.format.Formatter;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CancellationException;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.Bundle;
import org.dgemma.runtime.BundleException;
import org.jspecify.annotations.Nullable;

/**
 * Copies a bundle out of the file picker's tree into the app's own files, where engines can map it. Atomic: it is
 * copied and checked under a hidden name and renamed. Made and watched on the main thread; the work has a thread of its
 * own, which goes on when activities go.
 */
final class BundleCopy {
    interface Observer {
        void onCopyChanged(BundleCopy copy);
    }

    private static final int MOST_FILES = 10_000;
    private static final int MOST_DEPTH = 8;
    /** Left free, so that the device stays usable. */
    private static final long SPARE = 64L << 20;

    private final Handler main = new Handler(Looper.getMainLooper());
    private final Context context;
    private final Uri tree;
    private final File parent;
    private final List<SourceFile> sources = new ArrayList<>();

    private volatile boolean cancelled;
    private @Nullable Observer observer;
    private volatile String name = "";
    private volatile long done;
    private volatile long total;
    private boolean ended;
    private @Nullable File result;
    private @Nullable String problem;

    /** A file of the tree: its document and its place in the bundle. */
    private static final class SourceFile {
        final Uri uri;
        final String path;

        SourceFile(Uri uri, String path) {
            this.uri = uri;
            this.path = path;
        }
    }

    /** @param parent where the bundle's folder is made */
    BundleCopy(Context context, Uri tree, File parent) {
        this.context = context.getApplicationContext();
        this.tree = tree;
        this.parent = parent;
    }

    void start() {
        new Thread(this::work, "dgemma-copy").start();
    }

    void cancel() {
        cancelled = true;
    }

    void observe(@Nullable Observer who) {
        observer = who;
    }

    /** Name of the folder that was picked; empty until it is known. */
    String name() {
        return name;
    }

    long done() {
        return done;
    }

    /** Bytes in all; 0 until they are known. */
    long total() {
        return total;
    }

    boolean ended() {
        return ended;
    }

    /** The new bundle; null while it is copied, and when it failed or was cancelled. */
    @Nullable File result() {
        return result;
    }

    /** One line; null when nothing is wrong. */
    @Nullable String problem() {
        return problem;
    }

    private void work() {
        File temporary = null;
        try {
            String root = DocumentsContract.getTreeDocumentId(tree);
            name = displayName(root);
            File target = new File(parent, checked(name));
            temporary = new File(parent, "." + name);
            Bundles.delete(temporary);
            if (target.exists()) {
                throw new BundleException(string(R.string.add_exists, name));
            }
            list(root, "", 0);
            checkRoom();
            for (SourceFile source : sources) {
                copy(source, new File(temporary, source.path));
            }
            Bundle.open(temporary, (checkedBytes, all) -> {
                stopIfCancelled();
                tell();
            });
            stopIfCancelled();
            if (!temporary.renameTo(target)) {
                throw new IOException("cannot rename");
            }
            finish(target, null);
        } catch (CancellationException stopped) {
            clean(temporary);
            finish(null, null);
        } catch (DgemmaException error) {
            clean(temporary);
            // The hidden folder's name would puzzle, and its path is nobody's business.
            String line = String.valueOf(error.getMessage());
            finish(null, temporary == null ? line : line.replace(temporary.getPath(), name));
        } catch (IOException | RuntimeException error) {
            clean(temporary);
            String why = error.getMessage() == null ? error.getClass().getSimpleName() : error.getMessage();
            finish(null, string(R.string.add_unreadable, name, why.replace('\n', ' ')));
        }
    }

    private String displayName(String document) throws IOException {
        Uri uri = DocumentsContract.buildDocumentUriUsingTree(tree, document);
        String[] columns = {DocumentsContract.Document.COLUMN_DISPLAY_NAME};
        try (Cursor cursor = context.getContentResolver().query(uri, columns, null, null, null)) {
            if (cursor == null || !cursor.moveToFirst()) {
                throw new IOException("the folder is gone");
            }
            return cursor.getString(0);
        }
    }

    /** A provider's names become paths here, so they must be plain names. */
    private String checked(@Nullable String plain) {
        boolean bad = plain == null || plain.isEmpty() || plain.startsWith(".") || plain.indexOf('/') >= 0
                || plain.indexOf('\\') >= 0 || plain.indexOf('\0') >= 0 || plain.length() > 200;
        if (bad) {
            throw new BundleException(string(R.string.add_bad_name, String.valueOf(plain)));
        }
        return plain;
    }

    private void list(String document, String prefix, int depth) throws IOException {
        Uri children = DocumentsContract.buildChildDocumentsUriUsingTree(tree, document);
        String[] columns = {
            DocumentsContract.Document.COLUMN_DOCUMENT_ID, DocumentsContract.Document.COLUMN_DISPLAY_NAME,
            DocumentsContract.Document.COLUMN_MIME_TYPE, DocumentsContract.Document.COLUMN_SIZE,
        };
        boolean manifest = false;
        List<String[]> folders = new ArrayList<>();
        try (Cursor cursor = context.getContentResolver().query(children, columns, null, null, null)) {
            while (cursor != null && cursor.moveToNext()) {
                stopIfCancelled();
                String id = cursor.getString(0);
                String plain = checked(cursor.getString(1));
                if (DocumentsContract.Document.MIME_TYPE_DIR.equals(cursor.getString(2))) {
                    folders.add(new String[] {id, prefix + plain + "/"});
                    continue;
                }
                manifest |= plain.equals(Bundle.MANIFEST);
                sources.add(new SourceFile(DocumentsContract.buildDocumentUriUsingTree(tree, id), prefix + plain));
                total += Math.max(0, cursor.getLong(3));
            }
        }
        if (depth == 0 && !manifest) {
            throw new BundleException(string(R.string.add_no_manifest, name));
        }
        if (sources.size() > MOST_FILES || (depth == MOST_DEPTH && !folders.isEmpty())) {
            throw new BundleException(string(R.string.add_no_manifest, name));
        }
        for (String[] folder : folders) {
            list(folder[0], folder[1], depth + 1);
        }
    }

    private void checkRoom() throws IOException {
        if (!parent.isDirectory() && !parent.mkdirs()) {
            throw new IOException("cannot make the folder for bundles");
        }
        long free = parent.getUsableSpace();
        if (total + SPARE > free) {
            throw new BundleException(string(R.string.add_no_room, name, size(total + SPARE), size(free)));
        }
    }

    private void copy(SourceFile source, File target) throws IOException {
        File folder = target.getParentFile();
        if (folder != null && !folder.isDirectory() && !folder.mkdirs()) {
            throw new IOException("cannot make " + folder.getName());
        }
        ContentResolver resolver = context.getContentResolver();
        try (InputStream from = resolver.openInputStream(source.uri); OutputStream to = new FileOutputStream(target)) {
            if (from == null) {
                throw new IOException(source.path + " cannot be opened");
            }
            byte[] block = new byte[1 << 18];
            for (int count = from.read(block); count >= 0; count = from.read(block)) {
                stopIfCancelled();
                to.write(block, 0, count);
                done += count;
                tell();
            }
        }
    }

    private void stopIfCancelled() {
        if (cancelled) {
            throw new CancellationException();
        }
    }

    private static void clean(@Nullable File temporary) {
        if (temporary != null) {
            Bundles.delete(temporary);
        }
    }

    private void tell() {
        main.removeCallbacksAndMessages(this);
        main.postAtTime(this::told, this, android.os.SystemClock.uptimeMillis());
    }

    private void told() {
        if (observer != null) {
            observer.onCopyChanged(this);
        }
    }

    private void finish(@Nullable File made, @Nullable String line) {
        main.post(() -> {
            ended = true;
            result = made;
            problem = line;
            told();
        });
    }

    private String size(long bytes) {
        return Formatter.formatShortFileSize(context, bytes);
    }

    private String string(int id, Object... values) {
        Resources resources = context.getResources();
        return resources.getString(id, values);
    }
}
