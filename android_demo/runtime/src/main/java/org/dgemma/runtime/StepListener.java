package org.dgemma.runtime;

/** Called after every denoising step (with {@link Loop#GRAPH}, after every canvas for each of its steps). */
@FunctionalInterface
public interface StepListener {
    void onStep(StepEvent event);
}
