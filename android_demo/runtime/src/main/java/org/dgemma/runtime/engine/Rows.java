package org.dgemma.runtime.engine;

import java.util.concurrent.ForkJoinPool;
import java.util.function.IntConsumer;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/** Work on rows that do not depend on each other, on as many threads as a session may use. */
final class Rows {
    private final @Nullable ForkJoinPool pool;

    /** @param threads 0 for one on each processor */
    Rows(int threads) {
        int count = threads > 0 ? threads : Runtime.getRuntime().availableProcessors();
        pool = count > 1 ? new ForkJoinPool(count) : null;
    }

    /** Call {@code work} with 0 to {@code count} - 1, and wait for all. */
    void each(int count, IntConsumer work) {
        if (pool == null || count < 2) {
            for (int i = 0; i < count; i++) {
                work.accept(i);
            }
        } else {
            pool.submit(() -> IntStream.range(0, count).parallel().forEach(work)).join();
        }
    }

    void close() {
        if (pool != null) {
            pool.shutdown();
        }
    }
}
