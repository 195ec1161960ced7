package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;
import org.dgemma.runtime.structure.StructuredAnswer;
import org.jspecify.annotations.Nullable;

/**
 * The text of one generation: what its options say about the canvases, where it ends, its events, and its result. It knows ids
 * and how they read, and nothing of prefixes, engines or threads.
 */
final class Answering implements Generator.Watcher {
    /** Where the text ends early; null where it does not. */
    final @Nullable StopStrings stops;
    /** What the options say of canvases. */
    final List<Given> given;
    private final Speech speech;
    private final @Nullable Structure structure;
    private final boolean inside;
    private final @Nullable Recorder recorder;
    private final @Nullable StepListener steps;
    private final @Nullable GenerationListener texts;
    private final TextStream stream;

    /**
     * @param prompt what the prefix holds before the answer
     * @param exported the bundle's entropy bound, in nats
     * @param steps told of every step
     * @param texts told of text once it is committed
     */
    Answering(
            Speech speech, GenerateOptions options, int[] prompt, double exported, @Nullable StepListener steps,
            @Nullable GenerationListener texts) {
        this.speech = speech;
        this.steps = steps;
        this.texts = texts;
        structure = options.structure;
        inside = speech.opensInside(prompt);
        given = speech.given(options);
        stops = speech.stopStrings(options, inside);
        recorder = options.trace ? new Recorder(exported) : null;
        stream = speech.stream();
    }

    /**
     * The language that the options say the answer is of, null for any text.
     *
     * @param cancelled asked while it is compiled
     * @throws org.dgemma.DgemmaException UsageException, TokenizerException
     * @throws org.dgemma.runtime.structure.Cancelled
     */
    @Nullable StructuredAnswer language(GenerateOptions options, BooleanSupplier cancelled) {
        return structure == null ? null
                : speech.language(structure, options.choiceProbabilities, inside, cancelled);
    }

    @Override
    public void step(int canvas, DenoisingStep step, IntList committed) {
        if (recorder != null) {
            recorder.add(canvas, step);
        }
        if (steps != null) {
            steps.onStep(new StepEvent(
                    speech, inside, canvas, step.number, step.remaining, committed.toArray(), step.width,
                    step.argmax.clone(), step.canvasOut.clone(), step.entropy.clone(), step.accepted.clone()));
        }
    }

    @Override
    public void committed(IntList tokens) {
        if (texts != null) {
            String text = speech.soFar(tokens.toArray(), inside).text;
            tell(stream.grow(stops == null ? text : stops.sure(text)));
        }
    }

    private void tell(String piece) {
        if (texts != null && !piece.isEmpty()) {
            texts.onText(piece);
        }
    }

    /** The steps so far, where they were asked for. @param prompt what the generation started from */
    @Nullable Trajectory trajectory(int[] prompt, IntList tokens) {
        return recorder == null ? null : recorder.finish(prompt, tokens.toArray());
    }

    /** Of a generation that has ended, whose last text is told. */
    Result result(Progress run, String engine, String loop, Timings timings) {
        int[] tokens = run.tokens.toArray();
        Answer answer = speech.answer(tokens, inside);
        String found = stops == null ? null : stops.found;
        if (stops != null && found != null) {
            answer = answer.withText(stream.trimmed() ? Trim.both(stops.text) : stops.text);
        }
        List<String> holes = new ArrayList<>();
        for (Given known : given) {
            for (int[] hole : known.holes) {
                if (tokens.length > 0) {
                    int[] said = Arrays.copyOfRange(tokens, Math.min(hole[0], tokens.length), Math.min(hole[1], tokens.length));
                    holes.add(speech.answer(said, inside).text);
                }
            }
        }
        List<String> warnings = new ArrayList<>(run.warnings);
        warnings.addAll(answer.warnings);
        String empty = answer.whyEmpty(run.reason, tokens.length, run.pads, found);
        if (empty != null) {
            warnings.add(empty);
        }
        if (run.structured != null) {
            warnings.addAll(run.structured.warnings(answer.text, answer.toolCalls.size(), run.reason));
        }
        Result result = new Result(
                answer, warnings, tokens, run, engine, loop, timings, found, holes, choiceProbabilities(run));
        tell(stream.finish(result.text));
        return result;
    }

    private @Nullable Map<String, Double> choiceProbabilities(Progress run) {
        if (structure == null || run.choiceLogProbabilities == null) {
            return null;
        }
        double[] values = StructuredAnswer.normalized(run.choiceLogProbabilities);
        Map<String, Double> found = new LinkedHashMap<>();
        for (int i = 0; i < values.length; i++) {
            found.put(structure.choices.get(i), values[i]);
        }
        return found;
    }
}
