package org.dgemma.runtime;

import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Whether a JSON value counts as true in Python, and so in a template: nothing that is empty or zero does. */
final class Truth {
    private Truth() {}

    static boolean of(@Nullable Object value) {
        if (value instanceof Number) {
            return ((Number) value).doubleValue() != 0;
        }
        if (value instanceof Boolean) {
            return (Boolean) value;
        }
        return value instanceof String ? !((String) value).isEmpty()
                : value instanceof List ? !((List<?>) value).isEmpty()
                : value instanceof Map && !((Map<?, ?>) value).isEmpty();
    }
}
