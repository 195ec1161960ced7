package org.dgemma.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;
import static org.robolectric.Shadows.shadowOf;

import android.app.Activity;
import android.content.Intent;
import android.view.ViewGroup;
import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.file.Files;
import java.util.concurrent.CountDownLatch;
import org.junit.After;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;
import org.robolectric.Robolectric;

/** Where bundles come from: the app itself, the file picker, adb. */
public final class BundlesActivityTest extends AppTest {
    @Rule
    public final TemporaryFolder temporary = new TemporaryFolder();

    private BundlesActivity screen;

    @Before
    public void register() {
        Robolectric.setupContentProvider(FakeTree.class, FakeTree.AUTHORITY);
    }

    @After
    public void forgetNames() {
        FakeTree.rename = new String[] {"", ""};
    }

    private void open() {
        screen = Robolectric.buildActivity(BundlesActivity.class).setup().get();
    }

    private BundleCopy pick(File folder) {
        screen.findViewById(R.id.add).performClick();
        Intent asked = shadowOf(screen).getNextStartedActivityForResult().intent;
        assertEquals(Intent.ACTION_OPEN_DOCUMENT_TREE, asked.getAction());
        shadowOf(screen).receiveResult(asked, Activity.RESULT_OK, new Intent().setData(FakeTree.of(folder)));
        return app.copy();
    }

    private String[] added() {
        String[] names = app.bundles().addedFolder().list();
        return names == null ? new String[0] : names;
    }

    @Test
    public void aPickedBundleIsCopiedListedAndRuns() {
        needFloatBundle();
        open();
        BundleCopy copy = pick(FLOAT);
        assertTrue(shown(screen, R.id.copying));
        await("it is copied", copy::ended);
        assertNull(copy.problem());
        assertFalse(shown(screen, R.id.copying));
        assertEquals(copy.total(), copy.done());
        assertEquals("nothing but the bundle", 1, added().length);
        Bundles.Entry entry = app.bundles().named("tiny");
        assertEquals(Bundles.Origin.ADDED, entry.origin);
        ViewGroup list = screen.findViewById(R.id.list);
        list.getChildAt(list.getChildCount() - 1).performClick();
        assertTrue(screen.isFinishing());
        ChatActivity chat = chat().get();
        await("it is open", () -> app.holder().model() != null);
        assertTrue(text(chat, R.id.subtitle), text(chat, R.id.subtitle).startsWith("fp32"));
        say(chat, "Reverse the word lantern.");
        awaitAnswer();
        assertEquals("nretnal", text(turn(chat, 0), R.id.turn_answer));
    }

    @Test
    public void aCopyThatIsCancelledLeavesNothing() {
        needFloatBundle();
        open();
        FakeTree.hold = new CountDownLatch(1);
        BundleCopy copy = pick(FLOAT);
        await("its size is known", () -> copy.total() > 0);
        screen.findViewById(R.id.copy_cancel).performClick();
        FakeTree.hold.countDown();
        await("it has ended", copy::ended);
        assertNull(copy.problem());
        assertNull(copy.result());
        assertEquals(0, added().length);
    }

    @Test
    public void aDamagedBundleIsRefusedAndLeavesNothing() throws IOException {
        File damaged = copyOf(SHIPPED, "damaged.dgemma");
        try (RandomAccessFile file = new RandomAccessFile(new File(damaged, "onnx/weights.bin"), "rw")) {
            file.seek(1000);
            int was = file.read();
            file.seek(1000);
            file.write(was ^ 1);
        }
        open();
        BundleCopy copy = pick(damaged);
        await("it has ended", copy::ended);
        String line = text(screen, R.id.error_text);
        assertTrue(line, line.contains("weights.bin") && !line.contains(app.getFilesDir().getPath()));
        assertEquals(0, added().length);
        File whole = copyOf(SHIPPED, "whole.dgemma");
        BundleCopy next = pick(whole);
        await("it has ended", next::ended);
        assertNull("the same without the damage is taken", next.problem());
    }

    @Test
    public void aFolderWithoutManifestAndABadNameAreRefused() throws IOException {
        open();
        File empty = temporary.newFolder("empty");
        BundleCopy copy = pick(empty);
        await("it has ended", copy::ended);
        assertEquals(screen.getString(R.string.add_no_manifest, "empty"), text(screen, R.id.error_text));
        File climbing = temporary.newFolder("climbing");
        assertTrue(new File(climbing, "manifest.json").createNewFile());
        assertTrue(new File(climbing, "weights").createNewFile());
        FakeTree.rename = new String[] {"weights", "../../weights"};
        BundleCopy next = pick(climbing);
        await("it has ended", next::ended);
        assertEquals(screen.getString(R.string.add_bad_name, "../../weights"), text(screen, R.id.error_text));
        assertEquals(0, added().length);
    }

    @Test
    public void theBuiltInBundleIsUnpackedOnceAndAgainWhenDamaged() throws IOException {
        File parent = app.bundles().builtInFolder();
        File folder = BuiltIn.unpack(app.getAssets(), parent);
        assertNotNull(folder);
        File weights = new File(folder, "onnx/weights.bin");
        assertTrue(weights.setLastModified(1_000_000));
        BuiltIn.unpack(app.getAssets(), parent);
        assertEquals("a whole one stays", 1_000_000, weights.lastModified());
        try (RandomAccessFile file = new RandomAccessFile(weights, "rw")) {
            file.setLength(100);
        }
        app.choose(app.bundles().named("tiny"));
        await("it is open", () -> app.holder().model() != null);
        assertTrue(weights.length() > 100);
        assertEquals("no temporary folder stays", 1, parent.list().length);
    }

    @Test
    public void aPushedBundleIsListedAndPutFirst() throws IOException {
        copyTo(SHIPPED, new File(app.bundles().pushedFolder(), "mine.dgemma"));
        Bundles.Entry entry = app.bundles().named("mine");
        assertEquals(Bundles.Origin.PUSHED, entry.origin);
        open();
        assertTrue(text(screen, R.id.hint).contains("adb push"));
    }

    private File copyOf(File folder, String name) throws IOException {
        File target = new File(temporary.getRoot(), name);
        copyTo(folder, target);
        return target;
    }

    static void copyTo(File from, File to) throws IOException {
        File[] files = from.listFiles();
        if (files == null) {
            Files.copy(from.toPath(), to.toPath());
            return;
        }
        assertTrue(to.mkdirs());
        for (File file : files) {
            copyTo(file, new File(to, file.getName()));
        }
    }
}
