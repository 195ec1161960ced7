import java.io.File;

import org.dgemma.runtime.GenerateOptions;
import org.dgemma.runtime.Result;
import org.dgemma.runtime.Session;
import org.dgemma.runtime.SessionOptions;

/** One answer, and every step of it, on a JVM: java -cp 'JARS/*' examples/Ask.java BUNDLE PROMPT. */
public class Ask {
    public static void main(String[] arguments) {
        File bundle = new File(arguments.length > 0 ? arguments[0] : "src/dgemma/bundles/tiny.dgemma");
        String prompt = arguments.length > 1 ? arguments[1] : "Reverse the word table.";
        try (Session session = Session.load(bundle, SessionOptions.DEFAULT)) {
            GenerateOptions options = GenerateOptions.DEFAULT.maxNewTokens(256).seed(0);
            Result result = session.generate(prompt, options, event -> System.out.println("step " + event.text()));
            System.out.println(result.text);
        }
    }
}
