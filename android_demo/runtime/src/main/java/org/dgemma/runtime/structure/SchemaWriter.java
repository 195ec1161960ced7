package org.dgemma.runtime.structure;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Deque;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.dgemma.format.Json;
import org.jspecify.annotations.Nullable;

/**
 * A JSON schema as a regular expression, that of Python's runtime letter by letter: every text that it matches is valid JSON on
 * one line. Properties come in the schema's order, and objects have only the properties that are named. Parts of a schema that
 * cannot be enforced are refused by name, never ignored. {@link ScalarWriter} writes strings and numbers.
 */
final class SchemaWriter {
    private static final Set<String> ANNOTATIONS = new HashSet<>(Arrays.asList(
            "title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly",
            "$schema", "$id", "$comment", "$defs", "definitions"));
    private static final List<String> TYPES =
            Arrays.asList("object", "array", "string", "integer", "number", "boolean", "null");
    private static final Map<String, List<String>> OF_TYPE = new HashMap<>();
    private static final List<String> COMBINE = Arrays.asList("$ref", "anyOf", "oneOf", "allOf", "enum", "const");
    private static final String COMMA = ", ?";
    private static final String COLON = ": ?";
    private static final int LONGEST = 1 << 20; // characters of an expression
    private static final int DEEPEST = 64;

    static {
        List<String> bounds = Arrays.asList("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum");
        OF_TYPE.put("object", Arrays.asList("properties", "required", "additionalProperties"));
        OF_TYPE.put("array", Arrays.asList("items", "prefixItems", "minItems", "maxItems"));
        OF_TYPE.put("string", Arrays.asList("minLength", "maxLength", "pattern", "format"));
        OF_TYPE.put("integer", bounds);
        OF_TYPE.put("number", bounds);
        OF_TYPE.put("boolean", Collections.emptyList());
        OF_TYPE.put("null", Collections.emptyList());
    }

    private final @Nullable Object root;
    private final ScalarWriter scalars;
    private final Deque<String> open = new ArrayDeque<>();

    SchemaWriter(@Nullable Object root, Patience patience) {
        this.root = root;
        scalars = new ScalarWriter(patience);
    }

    /** The expression. Throws UsageException that names the place and the keyword that is not supported. */
    String write() {
        return write(root, "#", 0);
    }

    private String write(@Nullable Object schema, String path, int depth) {
        if (!(schema instanceof Map)) {
            throw JsonValues.refused(path + " is " + shown(schema) + "; give an object with a type");
        }
        if (depth > DEEPEST) {
            throw JsonValues.refused(path + " is nested more than " + DEEPEST + " deep; make it flatter");
        }
        Map<String, @Nullable Object> said = new LinkedHashMap<>();
        ((Map<?, ?>) schema).forEach((key, value) -> said.put((String) key, value));
        said.keySet().removeAll(ANNOTATIONS);
        String combined = COMBINE.stream().filter(said::containsKey).findFirst().orElse(null);
        String made = combined == null ? typed(said, path, depth) : combined(said, combined, path, depth);
        if (made.length() > LONGEST) {
            throw JsonValues.refused(path + " becomes an expression of " + made.length() + " characters; make it smaller");
        }
        return made;
    }

    /** A value as errors show it. */
    static String shown(@Nullable Object value) {
        String text = Json.write(value);
        return text.substring(0, Math.min(ByteAutomaton.SHOWN, text.length()));
    }

    /** A value that should be text as errors quote it. */
    static String quoted(@Nullable Object value) {
        return Json.repr(value instanceof String ? (String) value : Json.write(value), ByteAutomaton.SHOWN);
    }

    private String combined(Map<String, @Nullable Object> said, String key, String path, int depth) {
        boolean lists = key.equals("enum") || key.equals("const");
        Set<String> others = new HashSet<>(said.keySet());
        others.remove(key);
        if (lists) {
            others.remove("type");
        }
        refuse(others, path, "beside " + key + " ");
        Object value = said.get(key);
        if (key.equals("$ref")) {
            return reference(value, path, depth);
        }
        if (lists) {
            return constants(said, key, path);
        }
        if (!(value instanceof List) || ((List<?>) value).isEmpty()) {
            throw JsonValues.refused(path + "/" + key + " must be a list of schemas");
        }
        List<?> parts = (List<?>) value;
        if (key.equals("allOf") && parts.size() > 1) {
            throw JsonValues.refused(
                    path + "/allOf has " + parts.size() + " parts; only one is supported, so merge them");
        }
        if (key.equals("oneOf") && parts.size() > 1 && !exclusive(parts)) {
            throw JsonValues.refused(
                    path + "/oneOf has parts that may fit the same value; use anyOf, or different types");
        }
        List<String> made = new ArrayList<>();
        for (Object part : parts) {
            made.add(write(part, path + "/" + key + "/" + made.size(), depth + 1));
        }
        return group(made);
    }

    private String constants(Map<String, @Nullable Object> said, String key, String path) {
        Object value = said.get(key);
        List<?> values = key.equals("const") ? Collections.singletonList(value)
                : value instanceof List ? (List<?>) value : Collections.emptyList();
        List<String> types = said.containsKey("type") ? types(said, path) : null;
        List<String> made = new ArrayList<>();
        for (Object one : values) {
            if (types == null || hasType(one, types)) {
                made.add(JsonValues.literal(Json.text(one)));
            }
        }
        if (made.isEmpty()) {
            throw JsonValues.refused(path + "/" + key + " allows no value; list some");
        }
        return group(made);
    }

    private String reference(@Nullable Object name, String path, int depth) {
        if (!(name instanceof String) || !((String) name).startsWith("#")) {
            throw JsonValues.refused(path + "/$ref " + quoted(name) + " is not in this file; put it into $defs");
        }
        if (open.contains(name)) {
            throw JsonValues.refused(path + "/$ref " + Json.repr((String) name)
                    + " refers to itself, which is not supported; write out its levels");
        }
        open.push((String) name);
        String made = write(resolved((String) name, path), (String) name, depth + 1);
        open.pop();
        return made;
    }

    private @Nullable Object resolved(String name, String path) {
        Object found = root;
        String[] parts = name.substring(1).split("/", -1);
        for (int i = 1; i < parts.length; i++) {
            String key = parts[i].replace("~1", "/").replace("~0", "~");
            if (!(found instanceof Map) || !((Map<?, ?>) found).containsKey(key)) {
                throw JsonValues.refused(path + "/$ref " + Json.repr(name) + " points to nothing; name a schema in $defs");
            }
            found = ((Map<?, ?>) found).get(key);
        }
        return found;
    }

    /** Whether no value fits two of these: their types differ, or a property that all require has different constants. */
    private boolean exclusive(List<?> given) {
        Set<String> types = new HashSet<>();
        List<Map<String, String>> tags = new ArrayList<>();
        for (Object one : given) {
            Object name = one instanceof Map ? ((Map<?, ?>) one).get("$ref") : null;
            Object part = name instanceof String && ((String) name).startsWith("#") ? resolved((String) name, "#") : one;
            Object type = part instanceof Map ? ((Map<?, ?>) part).get("type") : null;
            if (!(type instanceof String)) {
                return false;
            }
            types.add(type.equals("integer") ? "number" : (String) type);
            tags.add(tags((Map<?, ?>) part));
        }
        if (types.size() == given.size()) {
            return true;
        }
        Set<String> shared = new HashSet<>(tags.get(0).keySet());
        tags.forEach(each -> shared.retainAll(each.keySet()));
        return shared.stream().anyMatch(name -> tags.stream().map(each -> each.get(name)).distinct().count() == tags.size());
    }

    /** Properties that an object must have with one text. */
    private static Map<String, String> tags(Map<?, ?> part) {
        Map<String, String> found = new HashMap<>();
        Object properties = part.get("properties");
        Object required = part.get("required");
        if (properties instanceof Map && required instanceof List) {
            ((Map<?, ?>) properties).forEach((name, one) -> {
                Object only = one instanceof Map ? ((Map<?, ?>) one).get("const") : null;
                if (only instanceof String && ((List<?>) required).contains(name)) {
                    found.put((String) name, (String) only);
                }
            });
        }
        return found;
    }

    private String typed(Map<String, @Nullable Object> said, String path, int depth) {
        if (!said.containsKey("type")) {
            if (!said.containsKey("properties")) {
                Set<String> unknown = new HashSet<>(said.keySet());
                OF_TYPE.values().forEach(unknown::removeAll);
                refuse(unknown, path, "");
                throw JsonValues.refused(
                        path + " has no type, so any value would fit; give one of " + String.join(", ", TYPES));
            }
            said.put("type", "object");
        }
        List<String> types = types(said, path);
        Set<String> unknown = new HashSet<>(said.keySet());
        unknown.remove("type");
        types.forEach(type -> unknown.removeAll(OF_TYPE.get(type)));
        refuse(unknown, path, "for " + String.join(" or ", types) + " ");
        List<String> made = new ArrayList<>();
        for (String type : types) {
            made.add(ofType(type, said, path, depth));
        }
        return group(made);
    }

    private String ofType(String type, Map<String, @Nullable Object> said, String path, int depth) {
        switch (type) {
            case "object":
                return object(said, path, depth);
            case "array":
                return array(said, path, depth);
            case "string":
                return scalars.string(said, path);
            case "integer":
            case "number":
                return scalars.number(type, said, path);
            default:
                return type.equals("null") ? "null" : "(?:true|false)";
        }
    }

    private String object(Map<String, @Nullable Object> said, String path, int depth) {
        Object given = said.getOrDefault("properties", Collections.emptyMap());
        Object needs = said.getOrDefault("required", Collections.emptyList());
        if (!(given instanceof Map) || !(needs instanceof List)) {
            throw JsonValues.refused(path + ": properties must be an object, and required a list");
        }
        Map<?, ?> properties = (Map<?, ?>) given;
        for (Object name : (List<?>) needs) {
            if (!(name instanceof String) || !properties.containsKey(name)) {
                throw JsonValues.refused(
                        path + "/required names " + quoted(name) + ", which is not a property; describe it");
            }
        }
        if (properties.isEmpty()) {
            return others(said.get("additionalProperties"), path, depth);
        }
        List<String> items = new ArrayList<>();
        List<Boolean> needed = new ArrayList<>();
        StringBuilder behind = new StringBuilder();
        List<Integer> ends = new ArrayList<>();
        properties.forEach((name, one) -> {
            String item = JsonValues.literal(Json.text(name)) + COLON + write(one, path + "/properties/" + name, depth + 1);
            boolean must = ((List<?>) needs).contains(name);
            items.add(item);
            needed.add(must);
            behind.append(must ? COMMA + item : "(?:" + COMMA + item + ")?");
            ends.add(behind.length());
        });
        List<String> starts = new ArrayList<>();
        for (int i = 0; i < items.size(); i++) { // whichever property comes first has no comma before it
            starts.add(items.get(i) + behind.substring(ends.get(i)));
            if (needed.get(i)) {
                return "\\{(?:" + String.join("|", starts) + ")\\}";
            }
        }
        starts.add("");
        return "\\{(?:" + String.join("|", starts) + ")\\}";
    }

    /** An object without properties that are named. */
    private String others(@Nullable Object others, String path, int depth) {
        if (Boolean.FALSE.equals(others)) {
            return "\\{\\}";
        }
        if (!(others instanceof Map)) {
            throw JsonValues.refused(
                    path + " does not describe its properties; name them, or give additionalProperties a type");
        }
        String item = "\"" + JsonValues.CHARACTER + "*\"" + COLON + write(others, path + "/additionalProperties", depth + 1);
        return "\\{(?:" + item + "(?:" + COMMA + item + ")*)?\\}";
    }

    private String array(Map<String, @Nullable Object> said, String path, int depth) {
        Integer least = ScalarWriter.count(said, "minItems", path);
        Integer high = ScalarWriter.count(said, "maxItems", path);
        int low = least == null ? 0 : least;
        if (said.containsKey("prefixItems")) {
            Object parts = said.get("prefixItems");
            int size = parts instanceof List ? ((List<?>) parts).size() : -1;
            if (!Boolean.FALSE.equals(said.get("items")) || size < low || high != null && size > high) {
                throw JsonValues.refused(
                        path + "/prefixItems needs \"items\": false, and exactly as many items as it lists");
            }
            List<String> written = new ArrayList<>();
            for (Object one : (List<?>) parts) {
                written.add(write(one, path + "/prefixItems/" + written.size(), depth + 1));
            }
            return "\\[" + String.join(COMMA, written) + "\\]";
        }
        if (high != null && high < low) {
            throw JsonValues.refused(path + " has minItems above maxItems; no list fits both");
        }
        if (high != null && high == 0) {
            return "\\[\\]";
        }
        if (!said.containsKey("items")) {
            throw JsonValues.refused(path + " does not describe its items; give items a type");
        }
        String item = write(said.get("items"), path + "/items", depth + 1);
        String more = "{" + Math.max(0, low - 1) + "," + (high == null ? "" : high - 1) + "}";
        return "\\[(?:" + item + "(?:" + COMMA + item + ")" + more + ")" + (low > 0 ? "" : "?") + "\\]";
    }

    private static void refuse(Set<String> unknown, String path, String where) {
        if (!unknown.isEmpty()) {
            String first = new TreeSet<>(unknown).first();
            boolean fits = first.codePointCount(0, first.length()) <= ByteAutomaton.SHOWN;
            String shown = fits ? first : first.substring(0, first.offsetByCodePoints(0, ByteAutomaton.SHOWN));
            throw JsonValues.refused(path + "/" + shown + " is not supported " + where + "yet; leave it out");
        }
    }

    private static List<String> types(Map<String, @Nullable Object> said, String path) {
        Object given = said.get("type");
        List<?> types = given instanceof List ? (List<?>) given : Collections.singletonList(given);
        List<String> found = new ArrayList<>();
        for (Object one : types) {
            if (one instanceof String && TYPES.contains(one)) {
                found.add((String) one);
            }
        }
        if (found.isEmpty() || found.size() < types.size()) {
            throw JsonValues.refused(
                    path + "/type " + shown(given) + " is unknown; choose from " + String.join(", ", TYPES));
        }
        return found;
    }

    private static boolean hasType(@Nullable Object value, List<String> types) {
        if (value instanceof Number) {
            return types.contains("number") || types.contains("integer") && ScalarWriter.isWhole((Number) value);
        }
        return types.contains(value == null ? "null" : value instanceof Boolean ? "boolean" : value instanceof String ? "string"
                : value instanceof List ? "array" : "object");
    }

    private static String group(List<String> parts) {
        return parts.size() == 1 ? parts.get(0) : "(?:" + String.join("|", parts) + ")";
    }
}
