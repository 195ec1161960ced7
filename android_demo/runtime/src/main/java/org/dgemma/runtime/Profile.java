package org.dgemma.runtime;

import java.io.File;
import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.dgemma.format.FileText;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.jspecify.annotations.Nullable;

/**
 * Named options of a generation with the bundle that they were found for, and what showed that they are worth it: the JSON file
 * that {@code dgemma tune} writes. Immutable.
 */
public final class Profile {
    /** Without options. */
    public static final Profile NONE = new Profile("none", null, Collections.emptyMap(), Collections.emptyMap());

    private static final double VERSION = 1;
    private static final List<String> KEYS = Arrays.asList("name", "options", "bundle", "evidence");
    private static final List<String> OPTIONS = Arrays.asList("temperature", "max_steps", "entropy_bound", "schedule",
            "confidence", "stability", "early_commit", "start_width", "recheck");

    public final String name;
    /** Digest of the bundle that it was found for; null: any. */
    public final @Nullable String bundle;
    /** What showed it, JSON values; for people. */
    public final Map<String, @Nullable Object> evidence;
    private final Map<String, @Nullable Object> options;

    private Profile(
            String name, @Nullable String bundle, Map<String, @Nullable Object> evidence, Map<String, @Nullable Object> options) {
        this.name = name;
        this.bundle = bundle;
        this.evidence = Collections.unmodifiableMap(evidence);
        this.options = options;
    }

    /** The profile of a file; throws UsageException naming it. */
    public static Profile read(File file) {
        String said = "profile " + file;
        try {
            return of(FileText.read(file));
        } catch (CharacterCodingException error) {
            throw new UsageException(said + ": is not a profile (not UTF-8 text); make one with `dgemma tune`", error);
        } catch (IOException error) {
            throw new UsageException(said + ": cannot be read (" + FileText.why(error) + "); name a file", error);
        } catch (UsageException error) {
            String why = error.getMessage();
            throw new UsageException(said + (why.startsWith("profile") ? why.substring("profile".length()) : ": " + why), error);
        }
    }

    /** The profile of such a file's text; throws UsageException. */
    public static Profile of(String json) {
        Object parsed;
        try {
            parsed = Json.parse(json);
        } catch (JsonException error) {
            throw new UsageException("profile: is not a profile (" + error.getMessage() + "); make one with `dgemma tune`", error);
        }
        if (!(parsed instanceof Map)) {
            throw new UsageException("profile: is not a profile (not an object); make one with `dgemma tune`");
        }
        Map<String, @Nullable Object> values = object(parsed);
        Object version = values.remove("version");
        if (!Boolean.TRUE.equals(version) && !(version instanceof Number && ((Number) version).doubleValue() == VERSION)) {
            throw new UsageException("profile: is not a profile of version 1; make one with `dgemma tune`");
        }
        TreeSet<String> unknown = new TreeSet<>(values.keySet());
        unknown.removeAll(KEYS);
        if (!unknown.isEmpty()) {
            throw new UsageException(
                    "profile has an unknown key " + Json.repr(unknown.first()) + "; choose from " + String.join(", ", KEYS));
        }
        for (String name : KEYS.subList(0, 2)) {
            if (!values.containsKey(name)) {
                throw new UsageException("profile has no " + name);
            }
        }
        return checked(values);
    }

    private static Profile checked(Map<String, @Nullable Object> values) {
        Object name = values.get("name");
        if (!(name instanceof String) || ((String) name).isEmpty() || !((String) name).codePoints().allMatch(Profile::shows)) {
            throw new UsageException("profile: name must be one line of text");
        }
        Map<String, @Nullable Object> options = object("options", values.get("options"));
        Map<String, @Nullable Object> evidence =
                object("evidence", values.getOrDefault("evidence", Collections.emptyMap()));
        Object bundle = values.get("bundle");
        if (bundle != null && !(bundle instanceof String)) {
            throw new UsageException("profile: bundle must be a bundle's digest");
        }
        TreeSet<String> unknown = new TreeSet<>(options.keySet());
        unknown.removeAll(OPTIONS);
        if (!unknown.isEmpty()) {
            throw new UsageException("profile has an unknown option " + Json.repr(unknown.first()) + "; choose from "
                    + String.join(", ", OPTIONS));
        }
        Profile found = new Profile((String) name, (String) bundle, evidence, options);
        found.sampler();
        found.compute();
        return found;
    }

    /** Whether Python calls a character printable. */
    private static boolean shows(int character) {
        List<Byte> hidden = Arrays.asList(Character.CONTROL, Character.FORMAT, Character.SURROGATE, Character.PRIVATE_USE,
                Character.UNASSIGNED, Character.LINE_SEPARATOR, Character.PARAGRAPH_SEPARATOR, Character.SPACE_SEPARATOR);
        return character == ' ' || !hidden.contains((byte) Character.getType(character));
    }

    private static Map<String, @Nullable Object> object(String name, @Nullable Object value) {
        if (!(value instanceof Map)) {
            throw new UsageException("profile: " + name + " must be an object");
        }
        return object(value);
    }

    private static Map<String, @Nullable Object> object(Object value) {
        Map<String, @Nullable Object> found = new LinkedHashMap<>();
        ((Map<?, ?>) value).forEach((key, each) -> found.put((String) key, each));
        return found;
    }

    /**
     * With others in place of its own.
     *
     * @param given by the names of the file, of JSON types; also a {@link Schedule}, and {@code speculate}
     */
    public Profile with(Map<String, ?> given) {
        Map<String, @Nullable Object> all = new LinkedHashMap<>(options);
        all.putAll(given);
        return new Profile(name, bundle, evidence, all);
    }

    /** Its options of the sampler. Throws UsageException. */
    public SamplerOptions sampler() {
        return new OptionValues(options).sampler();
    }

    /** Its options of what is computed. Throws UsageException. */
    public ComputePolicy compute() {
        return new OptionValues(options).compute();
    }

    /** Options with the sampler and the policy that it says in place of theirs. */
    public GenerateOptions applied(GenerateOptions to) {
        return to.sampler(sampler()).compute(compute());
    }

    /** What to tell where the bundle is not the one that it was found for, in one line; none where it is. */
    public List<String> warnings(Bundle other) {
        List<String> found = new ArrayList<>();
        if (bundle != null && !bundle.equals(other.digest())) {
            found.add("profile " + name + " was found for another bundle, so its evidence does not apply to this one; "
                    + "`dgemma tune` makes one that does");
        }
        return found;
    }
}
