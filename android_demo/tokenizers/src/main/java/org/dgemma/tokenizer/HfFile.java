package org.dgemma.tokenizer;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.dgemma.format.JsonException;
import org.dgemma.format.JsonReader;
import org.jspecify.annotations.Nullable;

/** Reads a `tokenizer.json` in one pass; vocabulary and merges go straight into packed arrays. */
final class HfFile {
    final List<HfAddedTokens.Token> added = new ArrayList<>();
    @Nullable HfNormalizer normalizer;
    @Nullable HfPreTokenizer preTokenizer;
    @Nullable HfDecoder decoder;
    /** Types of the decoder and of its parts. */
    final Set<String> decoding = new HashSet<>();
    final HfModel model;

    private final JsonReader json;
    private final int fileBytes;

    // The model's settings, in whatever order they come.
    private final HfBpe.Options bpe = new HfBpe.Options();
    private @Nullable HfVocabulary vocabulary;
    private @Nullable PackedStrings merges;
    private double @Nullable [] scores;
    private @Nullable String modelType;
    private int unknownId = -1;

    HfFile(byte[] file) {
        json = new JsonReader(file);
        fileBytes = file.length;
        try {
            json.open('{');
            for (boolean first = true; json.more('}', first); first = false) {
                readTop(json.key());
            }
            json.end();
        } catch (JsonException error) {
            throw new TokenizerException("it is not a tokenizer.json, or is damaged: " + error.getMessage(), error);
        }
        model = model();
    }

    private void readTop(String key) {
        switch (key) {
            case "version":
                Object version = json.tree();
                if (!"1.0".equals(version)) {
                    throw new TokenizerException("its version " + version + " is not 1.0");
                }
                break;
            case "added_tokens":
                readAdded();
                break;
            case "normalizer":
                HfComponent normalizing = component(key);
                normalizer = normalizing == null ? null : HfNormalizer.of(normalizing);
                break;
            case "pre_tokenizer":
                HfComponent cutting = component("pre-tokenizer");
                preTokenizer = cutting == null ? null : HfPreTokenizer.of(cutting);
                break;
            case "decoder":
                HfComponent reading = component(key);
                decoder = reading == null ? null : HfDecoder.of(reading);
                addTypes(reading);
                break;
            case "model":
                json.open('{');
                for (boolean first = true; json.more('}', first); first = false) {
                    readModel(json.key());
                }
                break;
            default:
                json.tree(); // truncation, padding and the post-processor add nothing here
        }
    }

    private @Nullable HfComponent component(String role) {
        Object tree = json.tree();
        return tree == null ? null : new HfComponent(role, tree);
    }

    private void readAdded() {
        json.open('[');
        for (boolean first = true; json.more(']', first); first = false) {
            HfComponent settings = new HfComponent("added token", json.tree());
            HfAddedTokens.Token token = new HfAddedTokens.Token();
            token.content = settings.text("content");
            token.singleWord = settings.flag("single_word");
            token.leftStrip = settings.flag("lstrip");
            token.rightStrip = settings.flag("rstrip");
            token.normalized = settings.flag("normalized");
            token.special = settings.flag("special");
            added.add(token);
        }
    }

    private void readModel(String key) {
        switch (key) {
            case "type":
                modelType = json.string();
                if (!modelType.equals("BPE") && !modelType.equals("Unigram")) {
                    throw new UnsupportedException("the model '" + modelType + "'");
                }
                break;
            case "vocab":
                if (json.peek() == '[') {
                    readScored();
                } else {
                    readVocabulary();
                }
                break;
            case "merges":
                readMerges();
                break;
            case "unk_token":
                Object unknown = json.tree();
                bpe.unknown = unknown == null ? null : String.valueOf(unknown);
                break;
            case "unk_id":
                Object id = json.tree();
                long number = id instanceof Long ? (Long) id : -1;
                unknownId = number < Integer.MAX_VALUE ? (int) number : -1;
                if (id != null && unknownId < 0) {
                    throw wrong();
                }
                break;
            case "fuse_unk":
                bpe.fuseUnknown = isTrue();
                break;
            case "byte_fallback":
                bpe.byteFallback = isTrue();
                break;
            case "ignore_merges":
                bpe.ignoreMerges = isTrue();
                break;
            case "dropout":
            case "continuing_subword_prefix":
            case "end_of_word_suffix":
            case "alpha":
            case "nbest_size":
                Object value = json.tree();
                if (value != null && !value.equals("") && !value.equals(0.0) && !value.equals(0L)) {
                    throw new UnsupportedException("the model's '" + key + "'");
                }
                break;
            default:
                json.tree();
        }
    }

    private TokenizerException wrong() {
        return new TokenizerException("it is not a tokenizer.json, or is damaged before byte " + json.position());
    }

    private boolean isTrue() {
        Object value = json.tree();
        if (value != null && !(value instanceof Boolean)) {
            throw wrong();
        }
        return Boolean.TRUE.equals(value);
    }

    private void readVocabulary() {
        HfVocabulary read = new HfVocabulary(fileBytes / 8);
        json.open('{');
        for (boolean first = true; json.more('}', first); first = false) {
            json.bytes();
            json.open(':');
            read.put(json.held(), json.from(), json.to(), json.natural());
        }
        read.close();
        vocabulary = read;
        scores = null;
    }

    private void readScored() {
        HfVocabulary read = new HfVocabulary(fileBytes / 8);
        double[] list = new double[1024];
        int size = 0;
        json.open('[');
        for (boolean first = true; json.more(']', first); first = false) {
            json.open('[');
            json.bytes();
            read.put(json.held(), json.from(), json.to(), size);
            json.open(',');
            if (size == list.length) {
                list = Arrays.copyOf(list, size * 2);
            }
            list[size++] = json.number().doubleValue();
            json.open(']');
        }
        read.close();
        vocabulary = read;
        scores = Arrays.copyOf(list, size);
    }

    /** Merges are "left right" in older files and ["left", "right"] in newer ones. */
    private void readMerges() {
        PackedStrings read = new PackedStrings(1024, fileBytes / 8);
        json.open('[');
        for (boolean first = true; json.more(']', first); first = false) {
            if (json.peek() == '[') {
                json.open('[');
                json.bytes();
                read.add(json.held(), json.from(), json.to());
                json.open(',');
                json.bytes();
                read.add(json.held(), json.from(), json.to());
                json.open(']');
            } else {
                json.bytes();
                readLegacyMerge(read);
            }
        }
        merges = read;
    }

    private void readLegacyMerge(PackedStrings read) {
        byte[] line = json.held();
        String text = Utf8.lossy(line, json.from(), json.to());
        if (text.startsWith("#version")) {
            return;
        }
        int space = json.from();
        while (space < json.to() && line[space] != ' ') {
            space++;
        }
        if (space == json.to() || text.indexOf(' ') != text.lastIndexOf(' ')) {
            throw new TokenizerException("merge " + read.size() / 2 + " does not have two parts");
        }
        read.add(line, json.from(), space);
        read.add(line, space + 1, json.to());
    }

    private void addTypes(@Nullable HfComponent decoder) {
        if (decoder == null) {
            return;
        }
        decoding.add(decoder.type());
        if (decoder.type().equals("Sequence")) {
            decoder.children("decoders").forEach(this::addTypes);
        }
    }

    /** The token that stands for what is unknown, null where the file names none. */
    @Nullable String unknown() {
        return bpe.unknown;
    }

    private HfModel model() {
        if (vocabulary == null) {
            throw new TokenizerException("it has no vocabulary");
        }
        boolean unigram = modelType == null ? scores != null : modelType.equals("Unigram");
        if (unigram && scores != null) {
            return new HfUnigram(vocabulary, scores, unknownId, bpe.byteFallback);
        }
        if (unigram || scores != null || merges == null) {
            throw new TokenizerException("its model lacks scores or merges");
        }
        return new HfBpe(vocabulary, merges, bpe);
    }
}
