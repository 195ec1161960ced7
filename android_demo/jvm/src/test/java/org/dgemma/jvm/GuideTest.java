package org.dgemma.jvm;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotEquals;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.tools.ToolProvider;
import org.jetbrains.kotlin.cli.jvm.K2JVMCompiler;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** The Kotlin and the Java of the guides compile against the library as it is, as they stand. */
public class GuideTest {
    private static final String CLASS_PATH = System.getProperty("java.class.path");
    private static final String[] PAGES = {"android_demo/README.md", "docs/guides/android.md"};

    @Rule public final TemporaryFolder temporary = new TemporaryFolder();

    @Test
    public void javaCompilesAndAWrongNameDoesNot() throws Exception {
        List<String> blocks = blocks("java");
        for (String block : blocks) {
            assertEquals("", java(block));
        }
        assertNotEquals("", java(blocks.get(0).replace("maxNewTokens", "maxTokens")));
    }

    @Test
    public void kotlinCompilesAndAWrongNameDoesNot() throws Exception {
        List<String> blocks = blocks("kotlin");
        for (String block : blocks) {
            assertEquals("OK ", kotlin(block));
        }
        assertNotEquals("OK ", kotlin(blocks.get(0).replace("maxNewTokens", "maxTokens")));
    }

    private static List<String> blocks(String language) throws Exception {
        List<String> found = new ArrayList<>();
        for (String page : PAGES) {
            File guide = new File(System.getProperty("dgemma.root"), page);
            String text = new String(Files.readAllBytes(guide.toPath()), StandardCharsets.UTF_8);
            Matcher matcher = Pattern.compile("(?sm)^```" + language + "\n(.*?)^```$").matcher(text);
            while (matcher.find()) {
                found.add(matcher.group(1));
            }
        }
        assertFalse("no " + language + " in the guides", found.isEmpty());
        return found;
    }

    private String java(String source) throws Exception {
        File file = write("Writer.java", source);
        ByteArrayOutputStream said = new ByteArrayOutputStream();
        ToolProvider.getSystemJavaCompiler().run(null, said, said, "-Xlint:all,-options,-processing", "--release", "8",
                "-proc:none", "-cp", CLASS_PATH, "-d", temporary.newFolder().getPath(), file.getPath());
        return said.toString("UTF-8");
    }

    private String kotlin(String source) throws Exception {
        File file = write("Writer.kt", source);
        ByteArrayOutputStream said = new ByteArrayOutputStream();
        String code = new K2JVMCompiler().exec(new PrintStream(said, true, "UTF-8"), "-cp", CLASS_PATH, "-no-stdlib",
                "-no-reflect", "-nowarn", "-d", temporary.newFolder().getPath(), file.getPath()).toString();
        return code + " " + said.toString("UTF-8").trim();
    }

    private File write(String name, String source) throws Exception {
        File file = new File(temporary.newFolder(), name);
        Files.write(file.toPath(), source.getBytes(StandardCharsets.UTF_8));
        return file;
    }
}
