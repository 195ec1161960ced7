package org.dgemma.runtime;

import java.util.Arrays;
import java.util.Map;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;

/** The members of one object of the manifest; unknown keys are refused before anything is read. */
final class Fields {
    private final Map<String, @Nullable Object> members;
    private final Place place;

    Fields(Map<String, @Nullable Object> members, Place place, String... keys) {
        this.members = members;
        this.place = place;
        TreeSet<String> unknown = new TreeSet<>(members.keySet());
        unknown.removeAll(Arrays.asList(keys));
        if (!unknown.isEmpty()) {
            throw place.unknown(unknown.first());
        }
    }

    <T extends @Nullable Object> T get(String key, Kind<T> kind) {
        if (!members.containsKey(key)) {
            throw place.missing(key);
        }
        return kind.read(members.get(key), place.at(key));
    }

    <T extends @Nullable Object> T get(String key, Kind<T> kind, T absent) {
        return members.containsKey(key) ? get(key, kind) : absent;
    }

    BundleException wrong(String what) {
        return place.wrong(what);
    }
}
