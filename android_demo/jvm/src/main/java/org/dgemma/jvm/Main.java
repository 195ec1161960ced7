package org.dgemma.jvm;

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.io.UnsupportedEncodingException;
import java.util.Arrays;
import org.dgemma.DgemmaException;
import org.dgemma.runtime.UsageException;
import org.dgemma.tokenizer.TokenizerException;

/** The library from a desktop's command line. Exit status 0 = done, 2 = bad input, said in one line on stderr. */
public final class Main {
    private static final String USAGE = "usage:\n"
            + "  run BUNDLE (-p TEXT | --prompt-ids 1,2,3 | --prompts FILE.jsonl | --messages FILE.json | stdin)\n"
            + "      [--engine E] [--target auto|cpu|qnn[:CHIP]] [--threads N] [--system TEXT] [--think] [--raw] [--cache DIR]\n"
            + "      [--decoder diffusion|autoregressive] [--profile FILE.json]\n"
            + "      [--loop host|graph] [--seed S] [--max-new-tokens K] [--min-tokens K] [--fixed-steps]\n"
            + "      [--early-commit NATS] [--start-width auto|N] [--recheck] [--speculate]\n"
            + "      [--temperature A[:B]] [--steps T] [--entropy-bound NATS[:NATS]] [--schedule linear|cosine|FILE]\n"
            + "      [--confidence NATS] [--stability STEPS] [--top-k K] [--top-p P] [--min-p P]\n"
            + "      [--logit-bias ID=B]… [--ban TEXT]… [--stop TEXT]… [--fallback autoregressive]\n"
            + "      [--template TEXT] [--draft FILE] [--strength X] [--regex R | --json-schema FILE | --choice A|B |\n"
            + "       --structure FILE]\n"
            + "      [--guidance S] [--negative TEXT] [--guidance-steps A:B]\n"
            + "      [--n K] [--json] [--logprobs N] [--choice-probabilities] [--trace]\n"
            + "  bench BUNDLE [--engine E] [--target auto|cpu|qnn[:CHIP]] [--seconds S] [--threads N] [--json] [--cache DIR]";

    private Main() {}

    public static void main(String[] arguments) throws UnsupportedEncodingException {
        Watched stdout = new Watched(new FileOutputStream(FileDescriptor.out));
        PrintStream out = new PrintStream(stdout, true, "UTF-8");
        PrintStream err = new PrintStream(new FileOutputStream(FileDescriptor.err), true, "UTF-8");
        int status = run(arguments, System.getProperty("sun.jnu.encoding", "UTF-8"), out, err);
        out.flush();
        if (stdout.failure() != null) {
            err.println("error: stdout: " + stdout.failure());
            status = 2;
        }
        System.exit(status);
    }

    /** @param encoding what Java decoded the arguments with: characters that it lacks have become U+FFFD */
    static int run(String[] arguments, String encoding, PrintStream out, PrintStream err) {
        for (String argument : arguments) {
            if (argument.indexOf('\uFFFD') >= 0 && !encoding.equalsIgnoreCase("UTF-8")) {
                err.println("error: an argument is not " + encoding
                        + " text; set LC_ALL=C.UTF-8, or give the prompt on stdin or with --prompts");
                return 2;
            }
        }
        if (arguments.length > 0 && (arguments[0].equals("--help") || arguments[0].equals("-h"))) {
            out.println(USAGE);
            return 0;
        }
        try {
            String command = arguments.length == 0 ? "" : arguments[0];
            String[] rest = arguments.length == 0 ? arguments : Arrays.copyOfRange(arguments, 1, arguments.length);
            switch (command) {
                case "run":
                    new RunCommand(Arguments.parse(rest, RunCommand.OPTIONS, RunCommand.FLAGS), out, err).run();
                    return 0;
                case "bench":
                    new BenchCommand(Arguments.parse(rest, BenchCommand.OPTIONS, BenchCommand.FLAGS), out, err).run();
                    return 0;
                default:
                    throw new UsageException("unknown command '" + command + "'; choose run or bench, or read --help");
            }
        } catch (DgemmaException error) {
            boolean names = error instanceof UsageException || error instanceof TokenizerException;
            err.println("error: " + (names ? Spelling.spelled(error.getMessage()) : error.getMessage()));
            return 2;
        }
    }
}
