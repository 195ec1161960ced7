package org.dgemma.runtime;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.BooleanSupplier;
import org.dgemma.runtime.engine.DType;
import org.dgemma.runtime.engine.Engine;
import org.dgemma.runtime.engine.Tensor;

/**
 * The prefix: which tokens it holds, and their keys and values in caches that the host owns.
 *
 * <p>Tokens are appended at once and encoded when something needs them. Keys and values of a causal pass do not depend
 * on what follows, so a prefix is cut back by forgetting its last tokens. K kv heads, d head dim, S slots, C chunk.
 */
final class Prefix {
    /** Prefixes are handed out in multiples of this many slots, so that shapes repeat. */
    static final int SLOT_STEP = 64;

    /** The dimension of inputs that hold the last slots alone. */
    static final String LOCAL = "L";

    private static final int FIRST_SLOTS = 4 * SLOT_STEP;
    private static final int MOST_VIEWS = 8;

    /** One layer's keys or values [1, slots, K, d], growing up to the context. */
    private static final class Cache {
        final String input;
        final String output;
        final long heads;
        final long dim;
        Tensor tensor;
        /** Of its own position and limit, over the memory of {@code tensor}. */
        ByteBuffer cursor;

        Cache(String kind, int layer, long heads, long dim) {
            input = "prefix_" + kind + "_" + layer;
            output = "new_" + kind + "_" + layer;
            this.heads = heads;
            this.dim = dim;
        }

        int rowBytes() {
            return (int) (DType.FLOAT32.bytes * heads * dim);
        }
    }

    /** Range of the number of slots that a graph takes, and its inputs that take the last of them alone. */
    private static final class Slots {
        int[] range;
        final Set<String> local = new HashSet<>();
    }

    /** Tokens of a call over C of them, and the keys and values that it gives. */
    static final class Chunk {
        final int size;
        final Tensor tokens;
        final Map<String, Tensor> outputs = new HashMap<>();
        private final List<ByteBuffer> rows = new ArrayList<>();

        private Chunk(int size, List<Cache> caches) {
            this.size = size;
            tokens = Buffers.zeros(DType.INT64, 1, size);
            for (Cache cache : caches) {
                add(cache, Buffers.zeros(DType.FLOAT32, 1, size, cache.heads, cache.dim));
            }
        }

        /** The beginning of a larger one; it shares the memory. */
        private Chunk(int size, Chunk larger, List<Cache> caches) {
            this.size = size;
            tokens = larger.tokens.firstRows(size);
            for (Cache cache : caches) {
                add(cache, larger.outputs.get(cache.output).firstRows(size));
            }
        }

        private void add(Cache cache, Tensor tensor) {
            outputs.put(cache.output, tensor);
            rows.add(tensor.data.duplicate());
        }
    }

    private final Engine engine;
    private final int context;
    private final int chunkSize;
    private final IntList ids = new IntList();
    private final List<Cache> caches = new ArrayList<>();
    private final Map<String, Slots> slotsOf = new HashMap<>();
    private final int window;
    /** By the number of slots and the first one of those that are local. */
    private final Map<List<Integer>, Map<String, Tensor>> views =
            new LinkedHashMap<List<Integer>, Map<String, Tensor>>(16, 0.75f, true) {
                private static final long serialVersionUID = 1L;

                @Override
                protected boolean removeEldestEntry(Map.Entry<List<Integer>, Map<String, Tensor>> eldest) {
                    return size() > MOST_VIEWS;
                }
            };
    private final Map<String, Tensor> feeds = new HashMap<>();
    private final Tensor start = Buffers.scalar(0);
    private final Tensor count = Buffers.scalar(0);
    private Chunk largest;
    private Chunk part;
    private int capacity;
    private int encoded;

    Prefix(Engine engine) {
        this.engine = engine;
        Manifest manifest = engine.bundle().manifest();
        context = manifest.context;
        chunkSize = manifest.chunk;
        window = manifest.model.slidingWindow;
        for (int layer = 0; layer < manifest.model.numLayers; layer++) {
            for (String kind : new String[] {"key", "value"}) {
                caches.add(new Cache(
                        kind, layer, manifest.model.layerKvHeads(layer), manifest.model.layerHeadDim(layer)));
            }
        }
    }

    int context() {
        return context;
    }

    /** Tokens whose keys and values are in the caches. */
    int encoded() {
        return encoded;
    }

    /** Slots that the caches have memory for. */
    int capacity() {
        return capacity;
    }

    synchronized int size() {
        return ids.size();
    }

    synchronized int last() {
        return ids.get(ids.size() - 1);
    }

    /** How many ids the two begin with alike. */
    static int shared(int[] left, int[] right) {
        int same = 0;
        while (same < Math.min(left.length, right.length) && left[same] == right[same]) {
            same++;
        }
        return same;
    }

    /** A copy; from any thread. */
    synchronized int[] ids() {
        return ids.toArray();
    }

    synchronized void extend(int[] more, int length) {
        ids.add(more, length);
    }

    /** Forget all tokens from position {@code length} on. */
    synchronized void truncate(int length) {
        ids.truncate(length);
        encoded = Math.min(encoded, length);
    }

    /**
     * The filled slots of every cache and {@code behind} more, rounded up, or as many as the graph is fixed to. Sliding
     * layers get those that they see and some before, where the graph has a dimension of its own for them.
     *
     * @return the same map as long as its slots stay the same.
     */
    Map<String, Tensor> views(String graph, int behind) {
        Slots known = slotsOf.computeIfAbsent(graph, this::slots);
        long rounded = (Math.max(1, encoded + behind) + SLOT_STEP - 1L) / SLOT_STEP * SLOT_STEP;
        int slots = (int) Math.min(Math.min(Math.max(known.range[0], rounded), known.range[1]), context);
        int first = known.local.isEmpty() ? 0 : Math.max(0, encoded - (window - 1)) / SLOT_STEP * SLOT_STEP;
        reserve(slots);
        List<Integer> key = Arrays.asList(slots, first);
        Map<String, Tensor> found = views.get(key);
        if (found == null) {
            found = new HashMap<>();
            for (Cache cache : caches) {
                found.put(cache.input, cache.tensor.rows(known.local.contains(cache.input) ? first : 0, slots));
            }
            views.put(key, found);
        }
        return found;
    }

    private Slots slots(String graph) {
        Slots found = new Slots();
        for (Cache cache : caches) {
            if (LOCAL.equals(Buffers.inputSize(engine, graph, cache.input, 1))) {
                found.local.add(cache.input);
            } else if (found.range == null) {
                found.range = Buffers.inputDim(engine, graph, cache.input, 1);
            }
        }
        if (found.range == null) {
            found.range = Buffers.inputDim(engine, graph, caches.get(0).input, 1);
        }
        return found;
    }

    /** Grows the caches to so many slots by doubling: a short chat does not pay for a long context. */
    private void reserve(int slots) {
        if (slots <= capacity) {
            return;
        }
        int grown = (int) Math.min(context, Math.max(Math.max(slots, FIRST_SLOTS), 2L * capacity));
        for (Cache cache : caches) {
            Tensor tensor = Buffers.zeros(DType.FLOAT32, 1, grown, cache.heads, cache.dim);
            ByteBuffer cursor = tensor.data.duplicate();
            if (cache.cursor != null) {
                cache.cursor.position(0).limit(encoded * cache.rowBytes());
                cursor.put(cache.cursor);
            }
            cache.tensor = tensor;
            cache.cursor = cursor;
        }
        capacity = grown;
        views.clear();
    }

    /** Append the first {@code count} rows of new keys and values that a call wrote. */
    void store(Chunk chunk, int count) {
        reserve(encoded + count);
        for (int i = 0; i < caches.size(); i++) {
            Cache cache = caches.get(i);
            ByteBuffer rows = chunk.rows.get(i);
            int bytes = cache.rowBytes();
            rows.position(0).limit(count * bytes);
            cache.cursor.limit(cache.cursor.capacity()).position(encoded * bytes);
            cache.cursor.put(rows);
        }
        encoded += count;
    }

    /**
     * Keep keys and values that a call wrote of canvas positions [A] behind the prefix, in slots that do not count as filled.
     */
    void place(Chunk chunk, int[] positions) {
        for (int i = 0; i < caches.size(); i++) {
            ByteBuffer cursor = caches.get(i).cursor;
            ByteBuffer rows = chunk.rows.get(i);
            int bytes = caches.get(i).rowBytes();
            cursor.limit(cursor.capacity());
            for (int j = 0; j < positions.length; j++) {
                rows.limit((j + 1) * bytes).position(j * bytes);
                cursor.position((encoded + positions[j]) * bytes);
                cursor.put(rows);
            }
        }
    }

    /** Room for C tokens or positions; all sizes share the memory of the largest. */
    Chunk chunk(int size) {
        if (largest == null || size > largest.size) {
            largest = new Chunk(size, caches);
            part = largest;
        } else if (part.size != size) {
            part = size == largest.size ? largest : new Chunk(size, largest, caches);
        }
        return part;
    }

    /**
     * Encode pending tokens, but for the last {@code keep}, in chunks; stops between chunks when cancelled.
     *
     * @return what greedy decoding says after each of the last {@code check} of them
     */
    int[] encode(BooleanSupplier cancelled, int keep, int check) {
        int least = Buffers.inputDim(engine, "encode", "tokens", 1)[0];
        int end = size() - keep;
        IntList following = new IntList();
        for (int n; (n = Math.min(end - encoded, chunkSize)) > 0 && !cancelled.getAsBoolean(); ) {
            Chunk chunk = chunk(Math.max(n, least));
            synchronized (this) {
                for (int i = 0; i < chunk.size; i++) {
                    chunk.tokens.data.putLong(8 * i, i < n ? ids.get(encoded + i) : 0);
                }
            }
            start.data.putLong(0, encoded);
            int from = Math.max(0, end - check - encoded); // the first row that is asked for
            feeds.clear();
            feeds.put("tokens", chunk.tokens);
            feeds.put("start", start);
            if (from < n) {
                check(chunk, from, n, following);
            } else {
                count.data.putLong(0, n);
                feeds.put("count", count);
                feeds.putAll(views("encode", 0));
                engine.run("encode", feeds, chunk.outputs);
            }
            checkNumbers(chunk, n);
            store(chunk, n);
        }
        return following.toArray();
    }

    /** What is not a number in any layer is none in the values of the last one. */
    private void checkNumbers(Chunk chunk, int n) {
        ByteBuffer rows = chunk.rows.get(chunk.rows.size() - 1);
        rows.clear();
        FloatBuffer values = rows.slice().order(ByteOrder.nativeOrder()).asFloatBuffer();
        values.limit(n * caches.get(caches.size() - 1).rowBytes() / DType.FLOAT32.bytes);
        String where = "the encoding of positions " + encoded + " to " + (encoded + n - 1);
        while (values.hasRemaining()) {
            if (Float.isNaN(values.get())) {
                throw Numbers.error(engine, where, null);
            }
        }
    }

    /** Encodes as {@code encode} does, and adds what greedy decoding says after rows {@code from} up to {@code end}. */
    private void check(Chunk chunk, int from, int end, IntList following) {
        Tensor rows = Buffers.zeros(DType.INT64, end - from);
        Tensor next = Buffers.zeros(DType.INT64, 1, end - from);
        for (int i = from; i < end; i++) {
            rows.data.putLong(8 * (i - from), i);
        }
        Map<String, Tensor> outputs = new HashMap<>(chunk.outputs);
        outputs.put("next_tokens", next);
        feeds.put("rows", rows);
        feeds.putAll(views(ComputePolicy.CHECK, 0));
        engine.run(ComputePolicy.CHECK, feeds, outputs);
        for (int i = 0; i < end - from; i++) {
            following.add((int) next.data.getLong(8 * i));
        }
    }
}
