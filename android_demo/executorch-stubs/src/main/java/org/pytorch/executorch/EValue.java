package org.pytorch.executorch;

/** Stand-in for the real class; holds a tensor. */
public final class EValue {
    private final Tensor tensor;

    private EValue(Tensor tensor) {
        this.tensor = tensor;
    }

    public static EValue from(Tensor tensor) {
        return new EValue(tensor);
    }

    public boolean isTensor() {
        return tensor != null;
    }

    public Tensor toTensor() {
        return tensor;
    }
}
