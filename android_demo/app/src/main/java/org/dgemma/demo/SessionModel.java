package org.dgemma.demo;

import java.util.List;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.GenerationListener;
import org.dgemma.runtime.Manifest;
import org.dgemma.runtime.Message;
import org.dgemma.runtime.Placement;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.Session;
import org.dgemma.runtime.SessionBusyException;
import org.dgemma.runtime.SessionOptions;
import org.dgemma.runtime.StepEvent;
import org.jspecify.annotations.Nullable;

/** A session of the library. */
final class SessionModel implements Model {
    private final Session session;
    private final Manifest manifest;
    private final Conversation conversation = new Conversation();

    private SessionModel(Session session) {
        this.session = session;
        this.manifest = session.bundle().manifest();
    }

    static Opener opener(SessionOptions options) {
        return folder -> new SessionModel(Session.load(folder, options));
    }

    @Override
    public String name() {
        Object name = manifest.provenance.get("name");
        return name == null ? session.bundle().folder().getName() : name.toString();
    }

    @Override
    public String description() {
        Object recipe = manifest.quantization.get("recipe");
        String engine = session.engine().equals("onnx") ? "ONNX Runtime" : "ExecuTorch";
        Placement placement = session.placement();
        String place = placement.usesNpu() ? " · NPU" : placement.reason == null ? "" : " · no NPU: " + placement.reason;
        return (recipe == null ? "" : recipe + " · ") + engine + " " + session.engineVersion() + place;
    }

    @Override
    public int canvasLength() {
        return manifest.canvasLength;
    }

    @Override
    public int steps() {
        return manifest.steps;
    }

    @Override
    public int context() {
        return manifest.context;
    }

    @Override
    public boolean thinks() {
        return manifest.chat != null && manifest.chat.thinks();
    }

    @Override
    public void start(String prompt, GenerateOptions options, Listener listener) {
        List<Message> asked = conversation.with(prompt, options.continued);
        if (options.think && thinks()) {
            session.start(asked, options, new Relay(listener, asked));
        } else {
            session.start(prompt, options.think(false), new Relay(listener, asked));
        }
    }

    @Override
    public void cancel() {
        session.cancel();
    }

    @Override
    public void close() {
        session.close();
    }

    /** Turns events into frames on the session's thread, so that the main thread only draws. */
    private final class Relay implements GenerationListener {
        private final Listener listener;
        private final List<Message> asked;
        private @Nullable Frame last;

        Relay(Listener listener, List<Message> asked) {
            this.listener = listener;
            this.asked = asked;
        }

        @Override
        public void onStep(StepEvent event) {
            last = Frame.of(
                    event.canvasIndex, event.step, manifest.steps, event.argmax, event.pieces(), event.entropy,
                    event.accepted, manifest.model.vocabSize, manifest.model.eosTokenIds, event.text(), last);
            listener.onFrame(last);
        }

        @Override
        public void onDone(Result result) {
            listener.onDone(summary(result));
        }

        @Override
        public void onCancelled(Result result) {
            listener.onDone(summary(result));
        }

        @Override
        public void onFailed(DgemmaException error) {
            listener.onFailed(error);
        }

        /** A model that is being put aside does not tell any more, and nobody asks. */
        private int used() {
            try {
                return session.prefixIds().length;
            } catch (SessionBusyException closed) {
                return 0;
            }
        }

        private Summary summary(Result result) {
            conversation.answered(asked, result.text);
            double seconds = result.timings.prefillS + result.timings.denoiseS + result.timings.commitS;
            return new Summary(
                    result.text, result.thinking, result.tokens.length, result.steps, result.stopReason, seconds,
                    result.tokensPerForward(), used());
        }
    }
}
