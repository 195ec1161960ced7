package org.dgemma.demo;

import android.content.Context;
import android.content.SharedPreferences;
import java.math.BigInteger;
import org.dgemma.runtime.GenerateOptions;
import org.jspecify.annotations.Nullable;

/** What a person set, kept between starts. */
final class Settings {
    private static final BigInteger MOST_SEED = BigInteger.ONE.shiftLeft(64).subtract(BigInteger.ONE);

    private final SharedPreferences kept;

    Settings(Context context) {
        kept = context.getSharedPreferences("settings", Context.MODE_PRIVATE);
    }

    /** Of all noise; its 64 bits are read as unsigned. */
    long seed() {
        return kept.getLong("seed", GenerateOptions.DEFAULT.seed);
    }

    int maxNewTokens() {
        return kept.getInt("max_new_tokens", GenerateOptions.DEFAULT.maxNewTokens);
    }

    boolean adaptive() {
        return kept.getBoolean("adaptive", GenerateOptions.DEFAULT.adaptive);
    }

    /** Go on from earlier questions; off for the shipped model, which was trained on single questions. */
    boolean remember(String model) {
        return kept.getBoolean("remember " + model, !model.equals("tiny"));
    }

    /** Let models that can do so think before they answer. */
    boolean think() {
        return kept.getBoolean("think", GenerateOptions.DEFAULT.think);
    }

    /** Show each step for long enough to be seen; the model runs at its own speed. */
    boolean slowMotion() {
        return kept.getBoolean("slow_motion", true);
    }

    /** Path of the bundle that was open last. */
    @Nullable String bundle() {
        return kept.getString("bundle", null);
    }

    void seed(long value) {
        kept.edit().putLong("seed", value).apply();
    }

    void maxNewTokens(int value) {
        kept.edit().putInt("max_new_tokens", value).apply();
    }

    void adaptive(boolean value) {
        kept.edit().putBoolean("adaptive", value).apply();
    }

    void remember(String model, boolean value) {
        kept.edit().putBoolean("remember " + model, value).apply();
    }

    void think(boolean value) {
        kept.edit().putBoolean("think", value).apply();
    }

    void slowMotion(boolean value) {
        kept.edit().putBoolean("slow_motion", value).apply();
    }

    void bundle(@Nullable String path) {
        kept.edit().putString("bundle", path).apply();
    }

    /** @param model that is asked */
    GenerateOptions options(String model) {
        return GenerateOptions.DEFAULT.seed(seed()).maxNewTokens(maxNewTokens()).adaptive(adaptive())
                .continued(remember(model)).think(think());
    }

    /** The 64 bits of a decimal number from 0 to 2⁶⁴−1; null for anything else. */
    static @Nullable Long parseSeed(String text) {
        try {
            BigInteger value = new BigInteger(text.trim());
            return value.signum() < 0 || value.compareTo(MOST_SEED) > 0 ? null : value.longValue();
        } catch (NumberFormatException error) {
            return null;
        }
    }
}
