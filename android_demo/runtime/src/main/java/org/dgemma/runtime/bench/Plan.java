package org.dgemma.runtime.bench;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedSet;
import java.util.TreeSet;

/** At which prefix lengths a canvas is measured, and what outputs of some lengths take by those figures. */
final class Plan {
    private static final int POINTS = 6;

    /** Ascending prefix lengths that a canvas of the longest output starts from, thinned out. */
    final int[] prefixes;

    private final int prompt;
    private final int canvas;
    private final List<Integer> fit = new ArrayList<>();
    private final Map<Integer, String> leftOut = new LinkedHashMap<>();

    /** A prompt of two canvases (of one, or what remains, in a short context), and whole canvases after it. */
    Plan(int[] outputs, int canvas, int context) {
        this.canvas = canvas;
        prompt = Math.max(1, Math.min(2 * canvas, context - canvas));
        int most = 1;
        for (int tokens : outputs) {
            int needed = prompt + canvases(tokens) * canvas;
            if (prompt + canvas < context ? needed <= context : tokens <= canvas) {
                fit.add(tokens);
                most = Math.max(most, canvases(tokens));
            } else {
                leftOut.put(tokens, "needs a context of " + needed + " (a prompt of " + prompt + ") and the bundle has "
                        + context);
            }
        }
        int count = Math.min(most, POINTS);
        SortedSet<Integer> chosen = new TreeSet<>();
        for (int i = 0; i < count; i++) {
            chosen.add(count == 1 ? 0 : (int) Math.rint((double) i * (most - 1) / (count - 1)));
        }
        prefixes = new int[chosen.size()];
        int place = 0;
        for (int number : chosen) {
            prefixes[place++] = prompt + number * canvas;
        }
    }

    private int canvases(int tokens) {
        return (tokens + canvas - 1) / canvas;
    }

    List<Object> leftOut() {
        List<Object> found = new ArrayList<>();
        for (Map.Entry<Integer, String> left : leftOut.entrySet()) {
            Map<String, Object> row = new LinkedHashMap<>();
            row.put("tokens", left.getKey());
            row.put("why", left.getValue());
            found.add(row);
        }
        return found;
    }

    /** For each output: canvases, seconds and tokens/s of both decoders, prefill included, and their ratio. */
    List<Object> outputs(List<Object> points, double prefillMs, double stepsPerCanvas) {
        List<Object> found = new ArrayList<>();
        for (int tokens : fit) {
            double steps = 0;
            double commits = 0;
            for (int i = 0; i < canvases(tokens); i++) {
                steps += stepsPerCanvas * at(points, prompt + i * canvas, "step_ms");
                commits += i == 0 ? 0 : canvas * at(points, prompt + i * canvas, "encode");
            }
            double decode = 0;
            for (int i = 0; i < tokens; i++) {
                decode += at(points, prompt + i, "token_ms");
            }
            double diffusion = (prefillMs + steps + commits) / 1e3;
            double other = (prefillMs + decode) / 1e3;
            Map<String, Object> row = new LinkedHashMap<>();
            row.put("tokens", tokens);
            row.put("canvases", canvases(tokens));
            row.put("diffusion_s", diffusion);
            row.put("autoregressive_s", other);
            row.put("diffusion_tokens_per_s", tokens / diffusion);
            row.put("autoregressive_tokens_per_s", tokens / other);
            row.put("ratio", other / diffusion);
            found.add(row);
        }
        return found;
    }

    /** Milliseconds at a prefix length of a step, a token, or encoding one; linear between points, flat outside. */
    private static double at(List<Object> points, int prefix, String figure) {
        Object before = points.get(0);
        for (Object point : points) {
            if (Stats.number(point, "prefix") > prefix) {
                double from = Stats.number(before, "prefix");
                double width = Stats.number(point, "prefix") - from;
                double part = width == 0 ? 0 : Math.max(0, (prefix - from) / width);
                return value(before, figure) * (1 - part) + value(point, figure) * part;
            }
            before = point;
        }
        return value(before, figure);
    }

    private static double value(Object point, String figure) {
        if (figure.equals("encode")) {
            return Stats.number(point, "encode_ms") / Stats.number(point, "encoded");
        }
        return Stats.median(point, figure);
    }
}
