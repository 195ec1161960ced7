package org.dgemma.runtime;

import org.dgemma.format.Json;

/** Where in a manifest a value stands, for the errors that name it. */
final class Place {
    private final String file;
    private final String path;

    Place(String file) {
        this(file, "");
    }

    private Place(String file, String path) {
        this.file = file;
        this.path = path;
    }

    Place at(Object key) {
        return new Place(file, path.isEmpty() ? key.toString() : path + "." + key);
    }

    BundleException mustBe(String what) {
        return wrong(Json.repr(path) + " must be " + what);
    }

    BundleException missing(String key) {
        return wrong("no key " + Json.repr(at(key).path));
    }

    BundleException wrong(String what) {
        return new BundleException(
                file + ": a value is missing or has the wrong type (" + what + "); export the bundle again");
    }

    BundleException unknown(String key) {
        return new BundleException(
                file + ": unknown key " + Json.repr(key) + "; this bundle was written by a newer dgemma, or edited");
    }
}
