package org.pytorch.executorch;

import java.io.Closeable;

/**
 * Stand-in for the real class, whose native library exists for Android only: what dgemma calls, played by a {@link Player}.
 *
 * <p>Signatures follow pytorch/executorch v1.4.1 (e4d02f41f7), extension/android/executorch_android; those in use are the
 * same in v1.0.1, but for {@code loadMethod}, which returned an int there.
 */
public class Module implements Closeable {
    public static final int LOAD_MODE_FILE = 0;
    public static final int LOAD_MODE_MMAP = 1;

    /** Not in the real class: who answers the calls of the modules that are loaded next. */
    public static volatile Player player;

    /** Plays a program. */
    public interface Player {
        /** Throws as {@link Module#load} does. */
        void load(String path, int loadMode, int threads);

        String[] methods();

        void loadMethod(String method);

        EValue[] execute(String method, EValue... inputs);

        void destroy();
    }

    private final Player mine;

    private Module(Player mine) {
        this.mine = mine;
    }

    public static Module load(String path, int loadMode, int threads) {
        player.load(path, loadMode, threads);
        return new Module(player);
    }

    public EValue[] execute(String method, EValue... inputs) {
        return mine.execute(method, inputs);
    }

    public void loadMethod(String method) {
        mine.loadMethod(method);
    }

    public String[] getMethods() {
        return mine.methods();
    }

    public void destroy() {
        mine.destroy();
    }

    @Override
    public void close() {
        destroy();
    }
}
