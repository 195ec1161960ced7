package org.dgemma.jvm;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.dgemma.format.Json;
import org.dgemma.format.JsonException;
import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Message;
import org.dgemma.runtime.Messages;
import org.dgemma.runtime.UsageException;

/** {@code --messages}: a JSON list of messages, or an object with {@code messages} and {@code tools}. */
final class ConversationFile {
    final List<Message> messages;
    final GenerateOptions options;

    private ConversationFile(List<Message> messages, GenerateOptions options) {
        this.messages = messages;
        this.options = options;
    }

    /** @param options which get the file's tools */
    static ConversationFile read(String path, GenerateOptions options) {
        String where = "--messages " + path + ": ";
        try {
            Object values = Json.parse(Files.readAllBytes(new File(path).toPath()));
            if (!(values instanceof Map)) {
                return new ConversationFile(Messages.read(values), options);
            }
            Map<?, ?> members = (Map<?, ?>) values;
            TreeSet<String> unknown = new TreeSet<>();
            members.keySet().forEach(key -> unknown.add((String) key));
            unknown.remove("messages");
            unknown.remove("tools");
            if (!unknown.isEmpty()) {
                throw new UsageException("unknown key '" + unknown.first() + "'; an object has messages and tools");
            }
            Object tools = members.get("tools");
            if (tools != null) {
                options = options.tools(Json.write(tools));
            }
            return new ConversationFile(Messages.read(members.get("messages")), options);
        } catch (IOException error) {
            throw new UsageException(where + "cannot be read; name a JSON file", error);
        } catch (JsonException error) {
            throw new UsageException(
                    where + "is not JSON in UTF-8; write a list of objects with role and content", error);
        } catch (UsageException error) {
            throw new UsageException(where + error.getMessage(), error);
        }
    }
}
