package org.dgemma.runtime;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.dgemma.format.Json;
import org.jspecify.annotations.Nullable;

/**
 * Everything that a reader must know to run the bundle's graphs. Made by {@link Bundle#open}; lists and maps cannot be
 * changed, and arrays must not be.
 */
public final class Manifest {
    /** 2: the sampler has {@code soft}, without which a bundle's is exact. */
    public static final int FORMAT_VERSION = 2;

    public final int formatVersion;
    /** Engine, lowest version that runs these graphs. */
    public final Map<String, String> engines;
    public final ModelConfig model;
    public final @Nullable TokenizerSpec tokenizer;
    public final @Nullable ChatTemplate chat;
    /** Tokens. */
    public final int canvasLength;
    /** Denoising steps that the graphs are built for. */
    public final int steps;
    /** Tokens of prompt, committed canvases and one canvas at most. */
    public final int context;
    /** Tokens that one call of {@code encode} takes at most. */
    public final int chunk;
    public final SamplerConfig sampler;
    /** JSON values as read: Map, List, String, Long, BigInteger, Double, Boolean, null. */
    public final Map<String, @Nullable Object> noise;
    /** Name of a dimension that varies, {least, most}. */
    public final Map<String, int[]> dims;
    /** Engine, graph name, where and what. */
    public final Map<String, Map<String, GraphSpec>> graphs;
    /** JSON values as read, see {@link #noise}. */
    public final Map<String, @Nullable Object> quantization;
    /** Tool, version that made the bundle. */
    public final Map<String, String> tools;
    /** JSON values as read, see {@link #noise}. */
    public final Map<String, @Nullable Object> provenance;
    /**
     * What the bundle holds for accelerators, by target such as {@code qnn:SM8650}, beside the graphs for processors; empty
     * where there is nothing.
     */
    public final Map<String, TargetSpec> targets;
    /** Name relative to the bundle, with '/'. */
    public final Map<String, FileEntry> files;

    private static final Kind<Manifest> KIND = Kind.object(Manifest::new,
            "format_version", "engines", "model", "tokenizer", "chat", "canvas_length", "steps", "context", "chunk",
            "sampler", "noise", "dims", "graphs", "quantization", "tools", "provenance", "targets",
            "files");

    private Manifest(Fields fields) {
        formatVersion = fields.get("format_version", Kind.INTEGER);
        engines = fields.get("engines", Kind.map(Kind.TEXT));
        model = fields.get("model", ModelConfig.KIND);
        tokenizer = fields.get("tokenizer", Kind.orNull(TokenizerSpec.KIND));
        chat = fields.get("chat", Kind.orNull(ChatTemplate.KIND));
        canvasLength = fields.get("canvas_length", Kind.INTEGER);
        steps = fields.get("steps", Kind.INTEGER);
        context = fields.get("context", Kind.INTEGER);
        chunk = fields.get("chunk", Kind.INTEGER);
        sampler = fields.get("sampler", SamplerConfig.KIND);
        noise = fields.get("noise", Kind.map(Kind.ANY));
        dims = fields.get("dims", Kind.map(Kind.RANGE));
        graphs = fields.get("graphs", Kind.map(Kind.map(GraphSpec.KIND)));
        quantization = fields.get("quantization", Kind.map(Kind.ANY));
        tools = fields.get("tools", Kind.map(Kind.TEXT));
        provenance = fields.get("provenance", Kind.map(Kind.ANY));
        targets = fields.get("targets", Kind.map(TargetSpec.KIND), Collections.emptyMap());
        files = fields.get("files", Kind.map(FileEntry.KIND), Collections.emptyMap());
    }

    /** From a manifest's values without the digest; {@code where} names the file in errors. */
    static Manifest read(Map<String, @Nullable Object> values, String where) {
        return KIND.read(values, new Place(where));
    }

    /** Shape of the denoiser. Sizes are in elements, lengths in tokens; names follow transformers' diffusion_gemma. */
    public static final class ModelConfig {
        static final String SLIDING = "sliding_attention";
        static final String FULL = "full_attention";
        private static final int MOST_LAYERS = 1024;
        static final Kind<ModelConfig> KIND = Kind.object(ModelConfig::new,
                "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
                "global_num_kv_heads", "global_head_dim", "sliding_window", "canvas_length", "layer_types",
                "num_experts", "top_k_experts", "moe_intermediate_size", "rms_norm_eps", "final_logit_softcapping",
                "sliding_rope_theta", "full_rope_theta", "full_partial_rotary_factor", "max_position_embeddings",
                "pad_token_id", "bos_token_id", "eos_token_ids");

        public final int vocabSize, hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headDim;
        public final int globalNumKvHeads, globalHeadDim, slidingWindow, canvasLength;
        /** {@code sliding_attention} or {@code full_attention}, one for each layer. */
        public final List<String> layerTypes;
        /** All three are null in a dense model. */
        public final @Nullable Integer numExperts, topKExperts, moeIntermediateSize;
        public final double rmsNormEps, finalLogitSoftcapping, slidingRopeTheta, fullRopeTheta, fullPartialRotaryFactor;
        public final int maxPositionEmbeddings, padTokenId, bosTokenId;
        public final int[] eosTokenIds;

        private ModelConfig(Fields fields) {
            vocabSize = fields.get("vocab_size", Kind.INTEGER);
            hiddenSize = fields.get("hidden_size", Kind.INTEGER);
            intermediateSize = fields.get("intermediate_size", Kind.INTEGER);
            numLayers = fields.get("num_layers", Kind.INTEGER);
            numHeads = fields.get("num_heads", Kind.INTEGER);
            numKvHeads = fields.get("num_kv_heads", Kind.INTEGER);
            headDim = fields.get("head_dim", Kind.INTEGER);
            globalNumKvHeads = fields.get("global_num_kv_heads", Kind.INTEGER);
            globalHeadDim = fields.get("global_head_dim", Kind.INTEGER);
            slidingWindow = fields.get("sliding_window", Kind.INTEGER);
            canvasLength = fields.get("canvas_length", Kind.INTEGER, 256);
            List<String> types = fields.get("layer_types", Kind.list(Kind.TEXT), Collections.emptyList());
            numExperts = fields.get("num_experts", Kind.orNull(Kind.INTEGER), null);
            topKExperts = fields.get("top_k_experts", Kind.orNull(Kind.INTEGER), null);
            moeIntermediateSize = fields.get("moe_intermediate_size", Kind.orNull(Kind.INTEGER), null);
            rmsNormEps = fields.get("rms_norm_eps", Kind.NUMBER, 1e-6);
            finalLogitSoftcapping = fields.get("final_logit_softcapping", Kind.NUMBER, 30.0);
            slidingRopeTheta = fields.get("sliding_rope_theta", Kind.NUMBER, 1e4);
            fullRopeTheta = fields.get("full_rope_theta", Kind.NUMBER, 1e6);
            fullPartialRotaryFactor = fields.get("full_partial_rotary_factor", Kind.NUMBER, 0.25);
            maxPositionEmbeddings = fields.get("max_position_embeddings", Kind.INTEGER, 131_072);
            padTokenId = fields.get("pad_token_id", Kind.INTEGER, 0);
            bosTokenId = fields.get("bos_token_id", Kind.INTEGER, 2);
            eosTokenIds = fields.get("eos_token_ids", Kind.INTEGERS, new int[] {1});
            checkSizes(fields);
            layerTypes = types.isEmpty() ? layerPattern(numLayers) : types;
            checkLayers(fields);
            checkExperts(fields);
            checkIds(fields);
        }

        /** Five sliding layers to one full layer; the last one is always full. */
        private static List<String> layerPattern(int layers) {
            List<String> pattern = new ArrayList<>();
            for (int i = 0; i < layers; i++) {
                pattern.add((i + 1) % 6 == 0 || i == layers - 1 ? FULL : SLIDING);
            }
            return Collections.unmodifiableList(pattern);
        }

        private void checkSizes(Fields fields) {
            String[] names = {"vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads",
                "head_dim", "global_num_kv_heads", "global_head_dim", "sliding_window", "canvas_length",
                "max_position_embeddings"};
            int[] sizes = {vocabSize, hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headDim,
                globalNumKvHeads, globalHeadDim, slidingWindow, canvasLength, maxPositionEmbeddings};
            for (int i = 0; i < names.length; i++) {
                if (sizes[i] < 1) {
                    throw fields.wrong("config value " + names[i] + "=" + sizes[i] + " must be a positive integer");
                }
            }
            if (numLayers > MOST_LAYERS) {
                throw fields.wrong("config value num_layers=" + numLayers + " must be at most " + MOST_LAYERS);
            }
        }

        private void checkLayers(Fields fields) {
            if (layerTypes.size() != numLayers
                    || !layerTypes.stream().allMatch(type -> type.equals(SLIDING) || type.equals(FULL))) {
                throw fields.wrong("layer_types must name " + numLayers + " layers as " + SLIDING + " or " + FULL);
            }
            if (!isFull(numLayers - 1)) {
                throw fields.wrong("the last layer must be " + FULL + ", not " + SLIDING);
            }
            if (numHeads % numKvHeads != 0 || numHeads % globalNumKvHeads != 0) {
                throw fields.wrong("num_heads=" + numHeads + " must be a multiple of num_kv_heads=" + numKvHeads
                        + " and global_num_kv_heads=" + globalNumKvHeads);
            }
            if (headDim % 2 != 0 || globalHeadDim % 2 != 0) {
                throw fields.wrong("head dimensions must be even: head_dim=" + headDim + ", global_head_dim="
                        + globalHeadDim);
            }
            if (slidingWindow < 2) {
                throw fields.wrong("sliding_window=" + slidingWindow
                        + " must be at least 2, so that a canvas sees some prefix");
            }
        }

        private void checkExperts(Fields fields) {
            boolean dense = numExperts == null;
            if (dense != (topKExperts == null) || dense != (moeIntermediateSize == null)) {
                throw fields.wrong(
                        "num_experts, top_k_experts and moe_intermediate_size must be given together or be null");
            }
            if (numExperts != null && topKExperts != null && !(1 <= topKExperts && topKExperts <= numExperts)) {
                throw fields.wrong("top_k_experts=" + topKExperts + " must be between 1 and num_experts=" + numExperts);
            }
            if (finalLogitSoftcapping <= 0 || rmsNormEps <= 0) {
                throw fields.wrong("final_logit_softcapping=" + Json.repr(finalLogitSoftcapping)
                        + " and rms_norm_eps=" + Json.repr(rmsNormEps) + " must be positive");
            }
        }

        private void checkIds(Fields fields) {
            boolean inside = Math.min(padTokenId, bosTokenId) >= 0 && Math.max(padTokenId, bosTokenId) < vocabSize;
            for (int id : eosTokenIds) {
                inside &= 0 <= id && id < vocabSize;
            }
            if (!inside) {
                throw fields.wrong("special token ids must lie in the vocabulary of " + vocabSize);
            }
        }

        public boolean isFull(int layer) {
            return layerTypes.get(layer).equals(FULL);
        }

        public int layerKvHeads(int layer) {
            return isFull(layer) ? globalNumKvHeads : numKvHeads;
        }

        public int layerHeadDim(int layer) {
            return isFull(layer) ? globalHeadDim : headDim;
        }
    }

    /** Entropy-bound sampling with a linear temperature schedule and an adaptive stop. Entropies are in nats. */
    public static final class SamplerConfig {
        private static final int MOST_STEPS = 4096;
        private static final int MOST_K = 1024;
        static final Kind<SamplerConfig> KIND = Kind.object(SamplerConfig::new, "steps", "t_min", "t_max",
                "entropy_bound", "stability_threshold", "confidence_threshold", "soft");

        public final int steps, stabilityThreshold;
        public final double tMin, tMax, entropyBound, confidenceThreshold;
        /** What the next step's soft embedding is the mean of: {@code exact} or {@code topk:K}. */
        public final String soft;

        private SamplerConfig(Fields fields) {
            steps = fields.get("steps", Kind.INTEGER, 48);
            tMin = fields.get("t_min", Kind.NUMBER, 0.4);
            tMax = fields.get("t_max", Kind.NUMBER, 0.8);
            entropyBound = fields.get("entropy_bound", Kind.NUMBER, 0.1);
            stabilityThreshold = fields.get("stability_threshold", Kind.INTEGER, 1);
            confidenceThreshold = fields.get("confidence_threshold", Kind.NUMBER, 0.005);
            soft = fields.get("soft", Kind.TEXT, "exact");
            check(fields);
        }

        private void check(Fields fields) {
            if (steps < 1 || steps > MOST_STEPS) {
                throw fields.wrong("steps=" + steps + " must be an integer between 1 and " + MOST_STEPS);
            }
            if (!(0 < tMin && tMin < tMax)) {
                throw fields.wrong("temperatures must satisfy 0 < t_min < t_max: t_min=" + Json.repr(tMin)
                        + ", t_max=" + Json.repr(tMax));
            }
            if (!(entropyBound > 0)) {
                throw fields.wrong("entropy_bound=" + Json.repr(entropyBound) + " must be positive");
            }
            if (stabilityThreshold < 0) {
                throw fields.wrong("stability_threshold=" + stabilityThreshold + " must be an integer, 0 or more");
            }
            if (!(confidenceThreshold > 0)) {
                throw fields.wrong("confidence_threshold=" + Json.repr(confidenceThreshold) + " must be positive");
            }
            boolean topK = soft.matches("topk:[1-9][0-9]{0,3}") && Integer.parseInt(soft.substring(5)) <= MOST_K;
            if (!soft.equals("exact") && !topK) {
                throw fields.wrong("soft=" + Json.repr(soft) + " must be exact, or topk:K with K between 1 and " + MOST_K);
            }
        }

        /** Temperature of the step with {@code remaining} steps left, T…1. */
        public double temperature(int remaining) {
            return tMin + (tMax - tMin) * ((double) remaining / steps);
        }
    }

    /** {@code kind} is sentencepiece or tokenizers (Hugging Face {@code tokenizer.json}). */
    public static final class TokenizerSpec {
        static final Kind<TokenizerSpec> KIND = Kind.object(TokenizerSpec::new, "file", "kind", "vocab_size");

        public final String file, kind;
        public final int vocabSize;

        private TokenizerSpec(Fields fields) {
            file = fields.get("file", Kind.TEXT);
            kind = fields.get("kind", Kind.TEXT);
            vocabSize = fields.get("vocab_size", Kind.INTEGER);
        }
    }

    /**
     * Ids around the turns of a chat, and what is done to the text between them, which cannot forge a turn. The text is
     * trimmed, and encoded in one piece with {@code user_lead} before and {@code user_tail} after it.
     */
    public static final class ChatTemplate {
        static final Kind<ChatTemplate> KIND = Kind.object(ChatTemplate::new,
                "start", "user_prefix", "user_suffix", "model_prefix", "model_suffix", "user_lead", "user_tail", "trim",
                "roles");

        public final int[] start, userPrefix, userSuffix, modelPrefix;
        /** After the stop token of a finished answer. */
        public final int[] modelSuffix;
        public final String userLead, userTail;
        /** none, both, start or end. */
        public final String trim;
        /** Null where the template names no other roles, thinking or tools. */
        final @Nullable Roles roles;

        /** Whether there are system turns. */
        public boolean hasSystem() {
            return roles != null && roles.openings.containsKey("system");
        }

        /** Whether there is a switch for thinking. */
        public boolean thinks() {
            return roles != null && roles.thinks();
        }

        /** Whether tools can be declared. */
        public boolean hasTools() {
            return roles != null && roles.tools != null;
        }

        private ChatTemplate(Fields fields) {
            start = fields.get("start", Kind.INTEGERS);
            userPrefix = fields.get("user_prefix", Kind.INTEGERS);
            userSuffix = fields.get("user_suffix", Kind.INTEGERS);
            modelPrefix = fields.get("model_prefix", Kind.INTEGERS);
            modelSuffix = fields.get("model_suffix", Kind.INTEGERS);
            userLead = fields.get("user_lead", Kind.TEXT, "");
            userTail = fields.get("user_tail", Kind.TEXT, "");
            trim = fields.get("trim", Kind.TEXT, "none");
            roles = fields.get("roles", Kind.orNull(Roles.KIND), null);
        }

        /** The first value that names a form which this version does not have; null where there is none. */
        @Nullable String unknownForm() {
            if (!Trim.SIDES.contains(trim)) {
                return "chat.trim " + Json.repr(trim);
            }
            return roles == null ? null : roles.unknownForm();
        }
    }

    /** Where one graph is and what goes in and out; {@code method} names it inside a file that holds several. */
    public static final class GraphSpec {
        static final Kind<GraphSpec> KIND = Kind.object(
                f -> new GraphSpec(
                        f.get("file", Kind.TEXT),
                        f.get("method", Kind.orNull(Kind.TEXT), null),
                        f.get("inputs", Kind.list(TensorSpec.KIND)),
                        f.get("outputs", Kind.list(TensorSpec.KIND))),
                "file", "method", "inputs", "outputs");

        public final String file;
        public final @Nullable String method;
        public final List<TensorSpec> inputs, outputs;

        public GraphSpec(String file, @Nullable String method, List<TensorSpec> inputs, List<TensorSpec> outputs) {
            this.file = file;
            this.method = method;
            this.inputs = Collections.unmodifiableList(new ArrayList<>(inputs));
            this.outputs = Collections.unmodifiableList(new ArrayList<>(outputs));
        }
    }

    /** One input or output of a graph. */
    public static final class TensorSpec {
        static final Kind<TensorSpec> KIND = Kind.object(
                f -> new TensorSpec(
                        f.get("name", Kind.TEXT), f.get("dtype", Kind.TEXT), f.get("shape", Kind.list(Kind.DIMENSION))),
                "name", "dtype", "shape");

        public final String name, dtype;
        /** Integers as Integer, and names of dimensions that vary as String; their ranges: {@link Manifest#dims}. */
        public final List<Object> shape;

        public TensorSpec(String name, String dtype, List<?> shape) {
            this.name = name;
            this.dtype = dtype;
            this.shape = Collections.unmodifiableList(new ArrayList<>(shape));
        }
    }

    /** {@code size} in bytes, {@code sha256} as lower-case hexadecimal digits. */
    public static final class FileEntry {
        static final Kind<FileEntry> KIND = Kind.object(FileEntry::new, "size", "sha256");

        public final long size;
        public final String sha256;

        private FileEntry(Fields fields) {
            size = fields.get("size", Kind.LONG);
            sha256 = fields.get("sha256", Kind.TEXT);
        }
    }
}
