package org.dgemma.runtime;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/** What a value of the manifest must be: reads a JSON value, or says that it is of another kind. */
interface Kind<T extends @Nullable Object> {
    T read(@Nullable Object value, Place place);

    Kind<@Nullable Object> ANY = (value, place) -> value;

    Kind<String> TEXT = (value, place) -> {
        if (value instanceof String) {
            return (String) value;
        }
        throw place.mustBe("a string");
    };

    Kind<Integer> INTEGER = (value, place) -> {
        if (value instanceof Long && (Long) value == ((Long) value).intValue()) {
            return ((Long) value).intValue();
        }
        throw place.mustBe("an integer of 32 bits");
    };

    Kind<Long> LONG = (value, place) -> {
        if (value instanceof Long) {
            return (Long) value;
        }
        throw place.mustBe("an integer of 64 bits");
    };

    Kind<Double> NUMBER = (value, place) -> {
        if (value instanceof Double || value instanceof Long || value instanceof BigInteger) {
            double number = ((Number) value).doubleValue();
            if (!Double.isInfinite(number) && !Double.isNaN(number)) {
                return number;
            }
        }
        throw place.mustBe("a finite number");
    };

    /** A length, or the name of a dimension that varies. */
    Kind<Object> DIMENSION = (value, place) -> {
        if (value instanceof String) {
            return value;
        }
        if (value instanceof Long && (Long) value == ((Long) value).intValue()) {
            return ((Long) value).intValue();
        }
        throw place.mustBe("an integer of 32 bits or a string");
    };

    Kind<int[]> INTEGERS = (value, place) -> {
        List<Integer> read = list(INTEGER).read(value, place);
        int[] integers = new int[read.size()];
        for (int i = 0; i < integers.length; i++) {
            integers[i] = read.get(i);
        }
        return integers;
    };

    /** Least and most. */
    Kind<int[]> RANGE = (value, place) -> {
        if (value instanceof List && ((List<?>) value).size() != 2) {
            throw place.mustBe("a list of 2 values");
        }
        return INTEGERS.read(value, place);
    };

    static Kind<String> oneOf(String... words) {
        return (value, place) -> {
            if (!Arrays.asList(words).contains(value)) {
                throw place.mustBe(String.join(" or ", words));
            }
            return (String) value;
        };
    }

    static <T> Kind<@Nullable T> orNull(Kind<T> kind) {
        return (value, place) -> value == null ? null : kind.read(value, place);
    }

    static <T extends @Nullable Object> Kind<List<T>> list(Kind<T> kind) {
        return (value, place) -> {
            if (!(value instanceof List)) {
                throw place.mustBe("a list");
            }
            List<T> read = new ArrayList<>();
            for (Object element : (List<?>) value) {
                read.add(kind.read(element, place.at(read.size())));
            }
            return Collections.unmodifiableList(read);
        };
    }

    static <T extends @Nullable Object> Kind<Map<String, T>> map(Kind<T> kind) {
        return (value, place) -> {
            if (!(value instanceof Map)) {
                throw place.mustBe("an object");
            }
            Map<String, T> read = new LinkedHashMap<>();
            for (Map.Entry<?, ?> member : ((Map<?, ?>) value).entrySet()) {
                String key = (String) member.getKey();
                read.put(key, kind.read(member.getValue(), place.at(key)));
            }
            return Collections.unmodifiableMap(read);
        };
    }

    /** An object of known keys. */
    static <T> Kind<T> object(Function<Fields, T> make, String... keys) {
        return (value, place) -> make.apply(new Fields(map(ANY).read(value, place), place, keys));
    }
}
