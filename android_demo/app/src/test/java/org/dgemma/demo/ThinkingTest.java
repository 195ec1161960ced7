package org.dgemma.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import android.view.View;
import android.widget.Switch;
import java.io.File;
import java.util.ArrayList;
import java.util.List;
import org.dgemma.runtime.Message;
import org.dgemma.runtime.StopReason;
import org.junit.Test;

/** What a model thought is folded above its answer; the switch is there for models that can think. */
public final class ThinkingTest extends AppTest {
    private FakeModel model;

    private ChatActivity fakeChat(boolean thinks) {
        app.opener(folder -> {
            model = new FakeModel();
            model.thinks = thinks;
            return model;
        });
        ChatActivity chat = chat().get();
        if (app.holder().state() == ModelHolder.State.BROKEN) { // no built-in bundle on this machine
            app.holder().open(new File("fake.dgemma"));
            await("it is open", () -> app.holder().model() != null);
        }
        return chat;
    }

    @Test
    public void thoughtsAreFoldedUntilTheyAreAskedFor() {
        ChatActivity chat = fakeChat(true);
        say(chat, "4?");
        model.step(0, 1, "maybe", "FOUR");
        assertEquals("not before the answer", View.GONE, turn(chat, 0).findViewById(R.id.turn_think).getVisibility());
        model.end("Four.", "In words, then.", StopReason.STOP);
        TurnView turn = turn(chat, 0);
        assertEquals("Four.", text(turn, R.id.turn_answer));
        assertEquals(chat.getString(R.string.show_thinking), text(turn, R.id.turn_think));
        assertEquals(View.GONE, turn.findViewById(R.id.turn_thinking).getVisibility());
        turn.findViewById(R.id.turn_think).performClick();
        assertEquals(View.VISIBLE, turn.findViewById(R.id.turn_thinking).getVisibility());
        assertEquals("In words, then.", text(turn, R.id.turn_thinking));
        assertEquals(chat.getString(R.string.hide_thinking), text(turn, R.id.turn_think));
        turn.findViewById(R.id.turn_think).performClick();
        assertEquals(View.GONE, turn.findViewById(R.id.turn_thinking).getVisibility());
    }

    @Test
    public void anAnswerWithoutThoughtsHasNothingToUnfold() {
        ChatActivity chat = fakeChat(true);
        say(chat, "4?");
        model.end("Four.", StopReason.STOP);
        assertEquals(View.GONE, turn(chat, 0).findViewById(R.id.turn_think).getVisibility());
    }

    @Test
    public void anAnswerThatIsMissingHasItsReason() {
        ChatActivity chat = fakeChat(true);
        int[] reasons = {R.string.thought_length, R.string.thought_context, R.string.thought_only, R.string.empty_answer};
        StopReason[] ends = {StopReason.LENGTH, StopReason.CONTEXT, StopReason.STOP, StopReason.CANCELLED};
        for (int i = 0; i < ends.length; i++) {
            say(chat, "4?");
            model.end("", "And so on", ends[i]);
            assertEquals(chat.getString(reasons[i]), text(turn(chat, i), R.id.turn_answer));
        }
    }

    @Test
    public void theSwitchIsThereForModelsThatThink() {
        ChatActivity chat = fakeChat(true);
        chat.findViewById(R.id.tune).performClick();
        Switch think = chat.findViewById(R.id.think);
        assertEquals(View.VISIBLE, think.getVisibility());
        assertFalse(think.isChecked());
        say(chat, "4?");
        model.end("Four.", StopReason.STOP);
        think.performClick();
        say(chat, "4?");
        model.end("Four.", StopReason.STOP);
        assertFalse(model.options.get(0).think);
        assertTrue(model.options.get(1).think);
    }

    @Test
    public void theSwitchIsNotThereForOthers() {
        assertEquals(View.GONE, fakeChat(false).findViewById(R.id.think).getVisibility());
    }

    @Test
    public void aChatThatGoesOnIsAskedWithAllOfIt() {
        Conversation conversation = new Conversation();
        List<Message> first = conversation.with("4?", true);
        conversation.answered(first, "Four.");
        List<Message> second = conversation.with("And 5?", true);
        assertEquals("user 4?, assistant Four., user And 5?", told(second));
        conversation.answered(second, ""); // it was stopped
        assertEquals("user 4?, assistant Four., user 6?", told(conversation.with("6?", true)));
        assertEquals("user 7?", told(conversation.with("7?", false)));
    }

    private static String told(List<Message> messages) {
        List<String> said = new ArrayList<>();
        messages.forEach(message -> said.add(message.role + " " + message.content));
        return String.join(", ", said);
    }
}
