package org.dgemma.demo;

import android.content.ContentProvider;
import android.content.ContentValues;
import android.database.Cursor;
import android.database.MatrixCursor;
import android.net.Uri;
import android.os.ParcelFileDescriptor;
import android.provider.DocumentsContract;
import android.provider.DocumentsContract.Document;
import java.io.File;
import java.io.FileNotFoundException;
import java.util.concurrent.CountDownLatch;

/** A documents provider over a folder, as the file picker hands one out; document ids are paths. */
public final class FakeTree extends ContentProvider {
    static final String AUTHORITY = "org.dgemma.demo.tree";
    /** What the provider says instead of a file's own name. */
    static String[] rename = {"", ""};

    /** Files open when this is done. */
    static CountDownLatch hold = new CountDownLatch(0);

    static Uri of(File folder) {
        return DocumentsContract.buildTreeDocumentUri(AUTHORITY, folder.getPath());
    }

    @Override
    public boolean onCreate() {
        return true;
    }

    @Override
    public Cursor query(Uri uri, String[] columns, String selection, String[] arguments, String order) {
        File document = new File(DocumentsContract.getDocumentId(uri));
        MatrixCursor cursor = new MatrixCursor(columns);
        File[] files = uri.getPath().endsWith("/children") ? document.listFiles() : new File[] {document};
        for (File file : files == null ? new File[0] : files) {
            Object[] row = new Object[columns.length];
            for (int i = 0; i < row.length; i++) {
                row[i] = value(file, columns[i]);
            }
            cursor.addRow(row);
        }
        return cursor;
    }

    private static Object value(File file, String column) {
        switch (column) {
            case Document.COLUMN_DOCUMENT_ID:
                return file.getPath();
            case Document.COLUMN_DISPLAY_NAME:
                return file.getName().equals(rename[0]) ? rename[1] : file.getName();
            case Document.COLUMN_MIME_TYPE:
                return file.isDirectory() ? Document.MIME_TYPE_DIR : "application/octet-stream";
            default:
                return file.length();
        }
    }

    @Override
    public ParcelFileDescriptor openFile(Uri uri, String mode) throws FileNotFoundException {
        try {
            hold.await();
        } catch (InterruptedException error) {
            throw new FileNotFoundException();
        }
        return ParcelFileDescriptor.open(
                new File(DocumentsContract.getDocumentId(uri)), ParcelFileDescriptor.MODE_READ_ONLY);
    }

    @Override
    public String getType(Uri uri) {
        return null;
    }

    @Override
    public Uri insert(Uri uri, ContentValues values) {
        throw new UnsupportedOperationException();
    }

    @Override
    public int delete(Uri uri, String selection, String[] arguments) {
        throw new UnsupportedOperationException();
    }

    @Override
    public int update(Uri uri, ContentValues values, String selection, String[] arguments) {
        throw new UnsupportedOperationException();
    }
}
