package org.dgemma.demo;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.dgemma.runtime.Message;

/** The messages of a chat: a question that is to be thought about is asked with all of them. For any thread. */
final class Conversation {
    private List<Message> said = Collections.emptyList();

    /** What to ask with: the question, behind what was said before where it goes on from that. */
    synchronized List<Message> with(String question, boolean continued) {
        List<Message> asked = new ArrayList<>(continued ? said : Collections.<Message>emptyList());
        asked.add(Message.user(question));
        return asked;
    }

    /** Keep an answer; a question that got none is forgotten. */
    synchronized void answered(List<Message> asked, String answer) {
        List<Message> kept = new ArrayList<>(asked);
        if (answer.isEmpty()) {
            kept.remove(kept.size() - 1);
        } else {
            kept.add(Message.assistant(answer));
        }
        said = kept;
    }
}
