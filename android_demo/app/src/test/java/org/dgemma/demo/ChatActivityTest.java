package org.dgemma.demo;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotEquals;
import static org.junit.Assert.assertTrue;

import android.animation.ValueAnimator;
import android.content.pm.ActivityInfo;
import android.content.res.Configuration;
import android.view.View;
import android.view.ViewGroup;
import android.widget.SeekBar;
import android.widget.TextView;
import java.util.List;
import org.junit.After;
import org.junit.Before;
import org.junit.Test;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.android.controller.ActivityController;
import org.robolectric.util.ReflectionHelpers;
import org.robolectric.util.ReflectionHelpers.ClassParameter;

/** The chat on the real library with the bundle that ships inside. */
public final class ChatActivityTest extends AppTest {
    @Before
    public void need() {
    }

    @Test
    public void typesRunsAndShowsTheAnswer() {
        ChatActivity chat = chat().get();
        assertEquals("tiny", text(chat, R.id.title));
        assertTrue(text(chat, R.id.subtitle), text(chat, R.id.subtitle).startsWith("w8 · ONNX Runtime "));
        assertTrue(shown(chat, R.id.welcome));
        say(chat, "Reverse the word lantern.");
        assertFalse(shown(chat, R.id.welcome));
        awaitAnswer();
        TurnView turn = turn(chat, 0);
        assertEquals("Reverse the word lantern.", text(turn, R.id.turn_prompt));
        assertEquals("nretnal", text(turn, R.id.turn_answer));
        String stats = text(turn, R.id.turn_stats);
        assertTrue(stats, stats.matches("\\d+ tokens? · \\d+ steps? · [\\d,]+ tokens/s · \\d+\\.\\d tokens/forward"));
        assertEquals("", text(chat, R.id.prompt));
    }

    @Test
    public void everyStepReachesTheCanvas() {
        ChatActivity chat = chat().get();
        say(chat, "As JSON: Paula from Zurich, age 30.");
        awaitAnswer();
        List<Frame> frames = app.holder().turns().get(0).frames();
        assertEquals(app.holder().turns().get(0).summary().steps, frames.size());
        assertEquals(1, frames.get(0).step);
        Frame last = frames.get(frames.size() - 1);
        assertEquals("{\"name\": \"Paula\", \"city\": \"Zurich\", \"age\": 30}", last.text);
        assertTrue("doubt falls", mean(last.doubt) < mean(frames.get(0).doubt));
        CanvasView canvas = turn(chat, 0).findViewById(R.id.turn_canvas);
        assertEquals(last, canvas.frames().get(0));
        String told = canvas.getContentDescription().toString();
        assertTrue(told, told.contains(last.text) && told.startsWith("Canvas 1, step " + last.step));
    }

    private static double mean(float[] values) {
        double sum = 0;
        for (float value : values) {
            sum += value;
        }
        return sum / values.length;
    }

    @Test
    public void severalCanvasesStandInOrder() {
        ChatActivity chat = chat().get();
        say(chat, "Write to Jonas Maria Felix Leo Tina: picnic, museum, Sunday, 9.");
        awaitAnswer();
        CanvasView canvas = turn(chat, 0).findViewById(R.id.turn_canvas);
        assertTrue("several canvases", canvas.frames().size() > 1);
        for (int i = 0; i < canvas.frames().size(); i++) {
            assertEquals(i, canvas.frames().get(i).canvas);
        }
        assertTrue(text(turn(chat, 0), R.id.turn_answer).startsWith("Dear Jonas, please come to the picnic"));
    }

    @Test
    public void theChatGoesOnUntilANewOne() {
        ChatActivity chat = chat().get();
        say(chat, "Reverse the word lantern.");
        awaitAnswer();
        int first = app.holder().used();
        assertTrue(first > 0);
        say(chat, "Reverse the word stone.");
        awaitAnswer();
        int alone = app.holder().used();
        assertTrue("this model takes each question on its own", Math.abs(alone - first) < first / 2);
        chat.findViewById(R.id.remember).performClick();
        say(chat, "Reverse the word stone.");
        awaitAnswer();
        assertTrue(app.holder().used() > alone + first / 2);
        assertEquals(3, ((ViewGroup) chat.findViewById(R.id.turns)).getChildCount());
        assertTrue(text(chat, R.id.subtitle).contains(" of 1024 tokens"));
        chat.findViewById(R.id.new_chat).performClick();
        assertTrue(shown(chat, R.id.welcome));
        say(chat, "Reverse the word lantern.");
        awaitAnswer();
        assertEquals("the same prompt in a new chat takes the same room", first, app.holder().used());
    }

    @Test
    public void seedAndSwitchesDecideTheRun() {
        ChatActivity chat = chat().get();
        chat.findViewById(R.id.tune).performClick();
        assertTrue(shown(chat, R.id.settings));
        TextView seed = chat.findViewById(R.id.seed);
        seed.setText("18446744073709551615");
        chat.findViewById(R.id.adaptive).performClick();
        say(chat, "Reverse the word lantern.");
        awaitAnswer();
        assertEquals("all steps without the adaptive stop", 16, app.holder().turns().get(0).summary().steps);
        assertEquals(-1L, app.settings().seed());
        seed.setText("18446744073709551616");
        say(chat, "Reverse the word lantern.");
        assertEquals("a seed of 65 bits starts nothing", 1, app.holder().turns().size());
        assertEquals(chat.getString(R.string.bad_seed), seed.getError().toString());
        chat.findViewById(R.id.dice).performClick();
        assertNotEquals("18446744073709551616", seed.getText().toString());
    }

    @Test
    public void slowMotionShowsEachStepAndThenTheText() {
        app.settings().slowMotion(true);
        animations(0); // they move Robolectric's clock
        ChatActivity chat = chat().get();
        say(chat, "As JSON: Paula from Zurich, age 30.");
        await("the model has finished", () -> !app.holder().running());
        TurnView turn = turn(chat, 0);
        assertEquals("the answer waits for the eyes", View.GONE, turn.findViewById(R.id.turn_answer).getVisibility());
        org.robolectric.shadows.ShadowLooper.idleMainLooper(10, java.util.concurrent.TimeUnit.SECONDS);
        assertEquals(View.VISIBLE, turn.findViewById(R.id.turn_answer).getVisibility());
        SeekBar seek = turn.findViewById(R.id.turn_seek);
        assertEquals(app.holder().turns().get(0).frames().size() - 1, seek.getMax());
        turn.findViewById(R.id.turn_replay).performClick();
        assertEquals(View.VISIBLE, turn.findViewById(R.id.turn_canvas).getVisibility());
        assertEquals(1, ((CanvasView) turn.findViewById(R.id.turn_canvas)).frames().get(0).step);
        org.robolectric.shadows.ShadowLooper.idleMainLooper(10, java.util.concurrent.TimeUnit.SECONDS);
        assertEquals(View.VISIBLE, turn.findViewById(R.id.turn_answer).getVisibility());
    }

    @After
    public void animationsAgain() {
        animations(1);
    }

    private static void animations(float scale) {
        ReflectionHelpers.callStaticMethod(
                ValueAnimator.class, "setDurationScale", ClassParameter.from(float.class, scale));
    }

    @Test
    public void rotationAndNightKeepTheRun() {
        ActivityController<ChatActivity> control = chat();
        app.settings().adaptive(false);
        say(control.get(), "Write to Jonas Maria Felix Leo Tina: picnic, museum, Sunday, 9.");
        await("a step has run", () -> !app.holder().turns().get(0).frames().isEmpty());
        ChatActivity before = control.get();
        RuntimeEnvironment.setQualifiers("+land-night");
        Configuration turned = new Configuration(before.getResources().getConfiguration());
        turned.orientation = Configuration.ORIENTATION_LANDSCAPE;
        turned.uiMode = Configuration.UI_MODE_NIGHT_YES | Configuration.UI_MODE_TYPE_NORMAL;
        control.configurationChange(turned);
        assertNotEquals("the activity was made anew", before, control.get());
        assertEquals(1, ((ViewGroup) control.get().findViewById(R.id.turns)).getChildCount());
        awaitAnswer();
        String answer = text(turn(control.get(), 0), R.id.turn_answer);
        assertTrue(answer, answer.startsWith("Dear Jonas"));
        assertEquals(ActivityInfo.SCREEN_ORIENTATION_UNSPECIFIED, control.get().getRequestedOrientation());
    }

    @Test
    public void theRunGoesOnInTheBackground() {
        ActivityController<ChatActivity> control = chat();
        say(control.get(), "Reverse the word lantern.");
        control.pause().stop();
        awaitAnswer();
        control.start().resume();
        assertEquals("nretnal", text(turn(control.get(), 0), R.id.turn_answer));
    }

    @Test
    public void cancelAtAnyMomentLeavesAChatThatWorks() {
        ChatActivity chat = chat().get();
        app.settings().adaptive(false);
        for (int steps = 0; steps < 4; steps++) {
            String stats = "";
            for (int tries = 0; tries < 8 && !stats.startsWith("Stopped"); tries++) {
                if (tries > 0) { // the answer was there before the stop: a fast engine, or a busy machine
                    chat.findViewById(R.id.new_chat).performClick();
                }
                int turn = app.holder().turns().size();
                int wanted = steps;
                say(chat, "Write to Jonas Maria Felix Leo Tina: picnic, museum, Sunday, 9.");
                await("so many steps", () -> app.holder().turns().get(turn).frames().size() >= wanted);
                app.holder().stop();
                app.holder().stop();
                awaitAnswer();
                stats = text(turn(chat, turn), R.id.turn_stats);
            }
            assertTrue(stats, stats.startsWith("Stopped"));
        }
        chat.findViewById(R.id.new_chat).performClick();
        say(chat, "Reverse the word lantern.");
        awaitAnswer();
        assertEquals("nretnal", text(turn(chat, 0), R.id.turn_answer));
    }
}
