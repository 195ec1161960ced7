package org.dgemma.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;
import static org.robolectric.Shadows.shadowOf;

import android.content.ComponentCallbacks2;
import android.content.Intent;
import android.os.Bundle;
import android.widget.Button;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import org.dgemma.runtime.EngineException;
import org.dgemma.runtime.PromptTooLongException;
import org.dgemma.runtime.StopReason;
import org.junit.Test;
import org.robolectric.Robolectric;
import org.robolectric.android.controller.ActivityController;

/** What can go wrong in a chat, and what must not follow from it. */
public final class ChatTroubleTest extends AppTest {
    private final List<FakeModel> models = new ArrayList<>();

    private ActivityController<ChatActivity> fakeChat() {
        app.opener(folder -> {
            FakeModel model = new FakeModel();
            models.add(model);
            return model;
        });
        ActivityController<ChatActivity> control = chat();
        if (app.holder().state() == ModelHolder.State.BROKEN) { // no built-in bundle on this machine
            app.holder().open(new File("fake.dgemma"));
            await("it is open", () -> app.holder().model() != null);
        }
        return control;
    }

    private FakeModel model() {
        return models.get(models.size() - 1);
    }

    @Test
    public void stopBeforeTheFirstStep() {
        ChatActivity chat = fakeChat().get();
        say(chat, "a");
        assertEquals(chat.getString(R.string.stop), chat.findViewById(R.id.send).getContentDescription());
        chat.findViewById(R.id.send).performClick();
        chat.findViewById(R.id.send).performClick();
        assertEquals(Turn.State.STOPPING, app.holder().turns().get(0).state());
        assertTrue(model().cancels >= 1);
        model().end("", StopReason.CANCELLED);
        assertFalse(app.holder().running());
        assertEquals("Stopped · 4 steps", text(turn(chat, 0), R.id.turn_stats));
    }

    @Test
    public void stopWhileTheModelOpens() {
        ChatActivity chat = fakeChat().get();
        app.holder().release();
        CountDownLatch hold = new CountDownLatch(1);
        app.holder().afterwards(() -> {
            try {
                hold.await();
            } catch (InterruptedException error) {
                throw new AssertionError(error);
            }
        });
        say(chat, "a");
        assertTrue(app.holder().running());
        app.holder().stop();
        assertFalse(app.holder().running());
        hold.countDown();
        await("it is open", () -> app.holder().model() != null);
        assertTrue("nothing was asked of it", model().prompts.isEmpty());
    }

    @Test
    public void backEndsARunAndThenLeaves() {
        ChatActivity chat = fakeChat().get();
        say(chat, "a");
        chat.onBackPressed();
        assertFalse(chat.isFinishing());
        model().end("", StopReason.CANCELLED);
        chat.onBackPressed();
        assertTrue(chat.isFinishing());
    }

    @Test
    public void aNewChatDuringARunWaitsForItsEnd() {
        ChatActivity chat = fakeChat().get();
        say(chat, "a");
        chat.findViewById(R.id.new_chat).performClick();
        say(chat, "b");
        assertEquals("the model is still busy", 1, model().prompts.size());
        model().end("", StopReason.CANCELLED);
        assertEquals("b", model().prompts.get(1));
        assertFalse("with an empty prefix", model().options.get(1).continued);
        model().end("B", StopReason.STOP);
        assertEquals("B", text(turn(chat, 0), R.id.turn_answer));
        say(chat, "c");
        assertTrue(model().options.get(2).continued);
    }

    @Test
    @SuppressWarnings("deprecation") // Android before 14 sends the levels.
    public void lowMemoryEndsTheRunAndSaysSo() {
        ChatActivity chat = fakeChat().get();
        say(chat, "a");
        FakeModel first = model();
        first.step(0, 1, "MAYBE", "later");
        app.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_UI_HIDDEN);
        assertTrue("being hidden alone frees nothing", app.holder().running());
        app.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_RUNNING_CRITICAL);
        await("it is closed", () -> first.closed);
        first.end("", StopReason.CANCELLED); // what comes late changes nothing
        assertFalse(app.holder().running());
        assertEquals(chat.getString(R.string.error_memory), text(chat, R.id.error_title));
        assertEquals("what stood on the canvas can be read", "MAYBE later", text(turn(chat, 0), R.id.turn_answer));
        say(chat, "b");
        await("it is open again", () -> models.size() == 2 && !model().prompts.isEmpty());
        assertFalse("of a new chat", model().options.get(0).continued);
        assertFalse(shown(chat, R.id.error));
    }

    @Test
    public void aFailureIsReadAndTheChatGoesOn() {
        ChatActivity chat = fakeChat().get();
        say(chat, "a");
        model().fail(new PromptTooLongException("a prompt of 9 tokens leaves no room"));
        assertEquals(chat.getString(R.string.error_context), text(chat, R.id.error_title));
        assertEquals("a prompt of 9 tokens leaves no room", text(chat, R.id.error_text));
        ((Button) chat.findViewById(R.id.error_action)).performClick();
        assertTrue(app.holder().turns().isEmpty());
        assertFalse(shown(chat, R.id.error));
    }

    @Test
    public void nativeLibrariesThatAreMissingAreAnErrorLine() {
        app.opener(folder -> {
            throw new UnsatisfiedLinkError("no onnxruntime4j_jni");
        });
        ChatActivity chat = chat().get();
        assertTrue(shown(chat, R.id.error));
        if (app.holder().folder() != null) {
            assertTrue(text(chat, R.id.error_text), text(chat, R.id.error_text).contains("onnxruntime4j_jni"));
        }
        say(chat, "a");
        assertTrue("nothing to ask", app.holder().turns().isEmpty());
    }

    @Test
    public void aBrokenBundleIsReadAndAnotherOneChosen() throws IOException {
        ChatActivity chat = chat().get();
        File broken = new File(app.bundles().addedFolder(), "broken.dgemma");
        assertTrue(broken.mkdirs());
        try (FileOutputStream out = new FileOutputStream(new File(broken, "manifest.json"))) {
            out.write("{\"format_version\": 2".getBytes("UTF-8"));
        }
        app.choose(app.bundles().named("broken"));
        await("it is refused", () -> app.holder().state() == ModelHolder.State.BROKEN);
        assertEquals(chat.getString(R.string.error_bundle), text(chat, R.id.error_title));
        String line = text(chat, R.id.error_text);
        assertTrue(line, line.contains("manifest.json") && !line.contains("\n"));
        ((Button) chat.findViewById(R.id.error_action)).performClick();
        Intent opened = shadowOf(chat).getNextStartedActivity();
        assertEquals(BundlesActivity.class.getName(), opened.getComponent().getClassName());
        app.choose(app.bundles().named("tiny"));
        await("the other one is open", () -> app.holder().model() != null);
        assertFalse(shown(chat, R.id.error));
    }

    @Test
    public void theStateThatIsSavedIsReadByTheNextProcess() {
        app.opener(folder -> new FakeModel());
        Bundle saved = new Bundle();
        saved.putStringArray("prompts", new String[] {"a"});
        saved.putStringArray("thoughts", new String[] {"T"});
        saved.putStringArray("answers", new String[] {"A"});
        ActivityController<ChatActivity> control = Robolectric.buildActivity(ChatActivity.class).setup(saved);
        await("the chat of the process before is there", () -> !app.holder().turns().isEmpty());
        TurnView turn = turn(control.get(), 0);
        assertEquals("a", text(turn, R.id.turn_prompt));
        assertEquals("A", text(turn, R.id.turn_answer));
        assertEquals(control.get().getString(R.string.earlier), text(turn, R.id.turn_stats));
        Bundle again = new Bundle();
        control.pause().stop().saveInstanceState(again);
        assertEquals("T", again.getStringArray("thoughts")[0]);
        assertEquals("A", again.getStringArray("answers")[0]);
    }

    @Test
    public void whatTheOpenerThrowsFailsTheTurnThatWaits() {
        ChatActivity chat = fakeChat().get();
        app.holder().release();
        FakeModel first = model();
        await("it is closed", () -> first.closed);
        app.opener(folder -> {
            throw new EngineException("no engine");
        });
        ModelHolder holder = app.holder();
        holder.open(new File("x.dgemma"));
        holder.send("a", app.settings().options("x"));
        await("it is refused", () -> holder.state() == ModelHolder.State.BROKEN);
        assertEquals(Turn.State.FAILED, holder.turns().get(0).state());
        assertEquals("no engine", holder.problem().line);
        assertFalse(chat.isFinishing());
    }
}
