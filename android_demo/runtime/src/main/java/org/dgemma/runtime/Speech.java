package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.function.BooleanSupplier;
import org.dgemma.format.Json;
import org.dgemma.runtime.structure.Languages;
import org.dgemma.runtime.structure.StructuredAnswer;
import org.dgemma.tokenizer.Tokenizer;
import org.dgemma.tokenizer.TokenizerException;
import org.dgemma.tokenizer.Tokenizers;
import org.jspecify.annotations.Nullable;

/**
 * What a session does with text: prompts become ids, and answers are read. Prompts are given as the whole prefix that they
 * make of the one before. It knows nothing of engines.
 */
final class Speech {
    /** Characters of a text in a message. */
    private static final int SHOWN = 40;

    private final Bundle bundle;
    private final Manifest manifest;
    private final @Nullable Tokenizer tokenizer;
    private final @Nullable AnswerReader reader;
    private final @Nullable Languages languages;

    Speech(Bundle bundle, @Nullable Tokenizer tokenizer) {
        this.bundle = bundle;
        this.manifest = bundle.manifest();
        this.tokenizer = tokenizer;
        Manifest.ChatTemplate chat = manifest.chat;
        Roles.ToolForm tools = chat == null || chat.roles == null ? null : chat.roles.tools;
        this.languages = tokenizer == null ? null
                : new Languages(tokenizer, manifest.model.vocabSize, tools == null ? null : tools.calls());
        this.reader = tokenizer == null ? null : new AnswerReader(tokenizer, chat == null ? null : chat.roles);
    }

    /** The bundle's tokenizer, null where it has none. */
    static @Nullable Tokenizer tokenizer(Bundle bundle) {
        Manifest.@Nullable TokenizerSpec spec = bundle.manifest().tokenizer;
        return spec == null ? null : Tokenizers.load(
                bundle.file(spec.file), spec.kind, Chat.markerIds(bundle.manifest()), spec.vocabSize);
    }

    private Tokenizer tokenizer() {
        if (tokenizer == null) {
            throw new TokenizerException("this bundle has no tokenizer; give the prompt as ids");
        }
        return tokenizer;
    }

    int[] prefix(int[] before, @Nullable String prompt, GenerateOptions options) {
        if (prompt == null && options.template != null) {
            return opening(options);
        }
        if (prompt == null || prompt.isEmpty()) {
            throw new UsageException("the prompt is empty; give some text");
        }
        if (options.speaks()) {
            if (options.continued) {
                throw new UsageException(
                        "to continue with system, think or tools, give the whole conversation as messages");
            }
            return prefix(Collections.singletonList(Message.user(prompt)), options);
        }
        if (options.raw) {
            return joined(before, checked(tokenizer().encode(prompt)));
        }
        int[] kept = Prompt.withoutThoughts(manifest, before);
        return joined(kept, Chat.ids(manifest, tokenizer(), prompt, kept));
    }

    /** The beginning of an answer to nothing. */
    private int[] opening(GenerateOptions options) {
        Manifest.ChatTemplate chat = manifest.chat;
        if (options.continued || options.speaks() || chat == null) {
            throw new UsageException("without prompt, a template starts a new conversation; give one");
        }
        return joined(chat.start, chat.modelPrefix);
    }

    /**
     * What the options say of canvases.
     *
     * @throws UsageException a template does not fit, or cannot be kept exactly
     * @throws TokenizerException the bundle has no tokenizer
     */
    List<Given> given(GenerateOptions options) {
        if (options.template == null && options.draft == null) {
            return Collections.emptyList();
        }
        if (tokenizer == null) {
            throw new TokenizerException("this bundle has no tokenizer, which template and draft need; leave them out");
        }
        if (options.draft != null) {
            return Given.fromDraft(manifest, tokenizer, options.draft, options.strength);
        }
        List<Given> found = Given.fromTemplate(manifest, tokenizer, options.template);
        int length = found.stream().mapToInt(known -> known.length).sum();
        if (length > options.maxNewTokens) {
            throw new UsageException(
                    "template takes " + length + " tokens; maxNewTokens " + options.maxNewTokens + " is less");
        }
        return found;
    }

    /** Of a whole conversation, which does not hang on what was there before. */
    int[] prefix(List<Message> messages, GenerateOptions options) {
        Tokenizer known = tokenizer();
        if (options.raw) {
            throw new UsageException("raw skips the chat template, which messages need; leave it out");
        }
        List<Message> given = Messages.checked(messages);
        if (options.system != null && Messages.OPENING_ROLES.contains(given.get(0).role)) {
            throw new UsageException("the messages begin with a " + given.get(0).role + " turn; leave system out");
        }
        return Prompt.ids(manifest, known, given, options);
    }

    int[] prefix(int[] before, int @Nullable [] ids, GenerateOptions options) {
        if (options.speaks()) {
            throw new UsageException(
                    "system, think and tools need a text prompt or messages; ids are used as they are");
        }
        return joined(before, checked(ids));
    }

    /**
     * The options with guidance's negative prompt as ids: behind the system turn that the messages begin with, if any.
     *
     * @param messages the prompt, where it is a conversation
     */
    GenerateOptions withNegative(GenerateOptions options, @Nullable List<Message> messages) {
        Guidance guidance = options.guidance;
        if (guidance == null || guidance.text() == null && guidance.ids() == null) {
            return options;
        }
        GenerateOptions alone = options.continued(false);
        String text = guidance.text();
        if (text == null) {
            checked(guidance.ids());
            return options;
        }
        boolean opens = messages != null && Messages.OPENING_ROLES.contains(messages.get(0).role);
        return options.guidance(guidance.negative(opens
                ? prefix(Arrays.asList(messages.get(0), Message.user(text)), alone) : prefix(new int[0], text, alone)));
    }

    private int[] checked(int @Nullable [] ids) {
        if (ids == null || ids.length == 0) {
            throw new UsageException("the prompt is empty; give at least one token");
        }
        int vocab = manifest.model.vocabSize;
        for (int id : ids) {
            if (id < 0 || id >= vocab) {
                throw new UsageException("prompt id " + id + " must be an integer from 0 to " + (vocab - 1));
            }
        }
        return ids;
    }

    private static int[] joined(int[] before, int[] ids) {
        int[] all = Arrays.copyOf(before, before.length + ids.length);
        System.arraycopy(ids, 0, all, before.length, ids.length);
        return all;
    }

    /** Whether a prompt ends inside a thought. */
    boolean opensInside(int[] prompt) {
        return reader != null && reader.opensInside(prompt);
    }

    /** @param inside whether the prompt ended inside a thought */
    Answer answer(int[] ids, boolean inside) {
        return reader == null ? Answer.of("") : reader.read(ids, inside);
    }

    Answer soFar(int[] ids, boolean inside) {
        return reader == null ? Answer.of("") : reader.soFar(ids, inside);
    }

    TokenKind[] kinds(int[] ids, boolean inside) {
        return reader == null ? new TokenKind[0] : reader.kinds(ids, inside);
    }

    /**
     * Where the answer ends before a stop string of the options; null where they have none.
     *
     * @throws TokenizerException the bundle has no tokenizer
     */
    @Nullable StopStrings stopStrings(GenerateOptions options, boolean inside) {
        if (options.stop.isEmpty()) {
            return null;
        }
        if (tokenizer == null) {
            throw new TokenizerException("this bundle has no tokenizer, so its answers have no text; leave stop out");
        }
        return new StopStrings(options.stop, tokens -> untrimmed(tokens, inside));
    }

    /** The text of an answer with white space at its ends, without thoughts and calls. */
    private String untrimmed(int[] ids, boolean inside) {
        return reader == null ? "" : reader.untrimmed(ids, inside);
    }

    /**
     * The options with what they ban as a bias on logits; only tokens that read exactly so, alone or behind a space.
     *
     * @throws UsageException a text is no single token
     * @throws TokenizerException the bundle has no tokenizer
     */
    GenerateOptions withBans(GenerateOptions options) {
        SamplerOptions sampler = options.sampler;
        for (String text : options.ban) {
            boolean found = false;
            String said = "ban " + Json.repr(text, SHOWN);
            if (tokenizer == null) {
                throw new TokenizerException(said + " cannot be read, for " + bundle.folder() + " has no tokenizer; give ids");
            }
            for (String spelled : new String[] {text, " " + text}) {
                int[] ids = tokenizer.encodeUser(spelled);
                if (ids.length == 1 && Trim.both(tokenizer.decode(ids)).equals(Trim.both(text))) {
                    sampler = sampler.ban(ids);
                    found = true;
                }
            }
            if (!found) {
                throw new UsageException(said + " takes " + tokenizer.encodeUser(text).length
                        + " tokens, which other texts need as well; ban a text of one token");
            }
        }
        return sampler == options.sampler ? options : options.sampler(sampler);
    }

    /**
     * The language that a structure says an answer is of.
     *
     * @param weighs whether the probabilities of its choices are wanted
     * @param inside whether the prompt ended inside a thought
     * @param cancelled asked while it is compiled
     * @throws UsageException it cannot be compiled, or does not fit the bundle
     * @throws TokenizerException the bundle has no tokenizer
     * @throws org.dgemma.runtime.structure.Cancelled
     */
    StructuredAnswer language(Structure structure, boolean weighs, boolean inside, BooleanSupplier cancelled) {
        if (tokenizer == null || languages == null) {
            throw new TokenizerException(
                    bundle.folder() + ": has no tokenizer, which " + structure.name() + " needs; leave it out");
        }
        if (inside) {
            throw new UsageException(structure.name()
                    + " covers the whole answer, but this prompt ends inside a thought; end the thought");
        }
        int[] stops = manifest.model.eosTokenIds;
        if (stops.length == 0) {
            throw new UsageException(structure.name()
                    + ": this bundle's model has no stop token, so such an answer could not end");
        }
        List<int[]> choices = new ArrayList<>();
        for (String text : weighs ? structure.choices : Collections.<String>emptyList()) {
            int[] ids = tokenizer.encodeUser(text);
            if (ids.length >= manifest.canvasLength) {
                throw new UsageException("choiceProbabilities need choices of at most " + (manifest.canvasLength - 1)
                        + " tokens, and one has " + ids.length + "; leave them out");
            }
            choices.add(ids);
        }
        return languages.answer(structure, stops, manifest.model.padTokenId, choices, cancelled);
    }

    TextStream stream() {
        return new TextStream(reader != null && reader.hasMarkers());
    }

    /** Committed tokens, and of a canvas its first {@code width} positions, up to a stop token. */
    int[] shown(int[] committed, int[] canvas, int width) {
        int visible = Math.min(width, Progress.visible(canvas, manifest.model.eosTokenIds));
        return joined(committed, Arrays.copyOf(canvas, visible));
    }

    String[] pieces(int[] ids) {
        if (tokenizer != null) {
            return tokenizer.pieces(ids);
        }
        String[] none = new String[ids.length];
        Arrays.fill(none, "");
        return none;
    }
}
