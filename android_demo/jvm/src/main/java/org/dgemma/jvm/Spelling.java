package org.dgemma.jvm;

import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The library's messages with its options as they are typed here: {@code --steps} for {@code maxSteps}. */
final class Spelling {
    private static final List<String> WORDS = Arrays.asList(
            "system", "think", "raw", "loop", "seed", "temperature(?! and)", "schedule", "confidence", "stability", "ban", "stop",
            "logprobs", "fallback", "template", "draft", "strength", "recheck", "speculate", "n", "messages",
            "regex", "choices(?! of)", "decoder", "guidance", "negative", "adaptive",
            "trace", "structure", "target");
    private static final Map<String, String> NAMES = new HashMap<>();
    private static final Pattern NAME;

    static {
        NAMES.put("maxNewTokens", "--max-new-tokens");
        NAMES.put("minTokens", "--min-tokens");
        NAMES.put("maxSteps", "--steps");
        NAMES.put("entropyBound", "--entropy-bound");
        NAMES.put("topK", "--top-k");
        NAMES.put("topP", "--top-p");
        NAMES.put("minP", "--min-p");
        NAMES.put("logitBias", "--logit-bias");
        NAMES.put("earlyCommit", "--early-commit");
        NAMES.put("startWidth", "--start-width");
        NAMES.put("jsonSchema", "--json-schema");
        NAMES.put("choiceProbabilities", "--choice-probabilities");
        NAMES.put("guidanceSteps", "--guidance-steps");
        String quoted = "(?<=[ \\[])(?:'(?:[^'\\\\]|\\\\.)*'|\"(?:[^\"\\\\]|\\\\.)*\")";
        String before = "(?:^|(?<=[;,] |\\b(?:leave|out|give|with|needs?|use|for|at|of|from|and|or|which|that|before|without) ))";
        NAME = Pattern.compile(quoted + "|\\b(" + String.join("|", NAMES.keySet()) + ")\\b|" + before + "("
                + String.join("|", WORDS) + ")\\b");
        WORDS.forEach(word -> NAMES.put(word, "--" + word));
        NAMES.put("choices", "--choice");
        NAMES.put("adaptive", "--fixed-steps");
        NAMES.put("temperature", "--temperature");
    }

    private Spelling() {}

    /** What is in quotes stays, and so does a message that begins with an option. */
    static String spelled(String message) {
        if (message.startsWith("-")) {
            return message;
        }
        StringBuffer out = new StringBuffer();
        Matcher name = NAME.matcher(message);
        while (name.find()) {
            name.appendReplacement(out, Matcher.quoteReplacement(NAMES.getOrDefault(name.group(), name.group())));
        }
        return name.appendTail(out).toString();
    }
}
