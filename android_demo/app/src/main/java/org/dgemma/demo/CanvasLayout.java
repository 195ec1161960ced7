package org.dgemma.demo;

import java.util.List;

/**
 * Where the tokens of some canvases stand: in reading order, broken into lines of a width, each canvas on new lines.
 * Pure geometry in pixels; a token that begins with a space stands a space apart, others close up.
 */
final class CanvasLayout {
    /** Measures a token's visible text. */
    interface Measure {
        float width(String text);
    }

    /** One token; {@code left} is already mirrored for text that runs from right to left. */
    static final class Token {
        final String text;
        /** Of the canvas, and in it. */
        final int canvas;
        final int position;
        final float width;
        float left;
        int line;

        Token(String text, int canvas, int position, float width) {
            this.text = text;
            this.canvas = canvas;
            this.position = position;
            this.width = width;
        }
    }

    static final String MARKER = "·";
    private static final String LINE_END = "⏎";

    final Token[] tokens;
    /** Lines in all. */
    final int lines;
    /** First line of each canvas. */
    final int[] firstLines;

    private CanvasLayout(Token[] tokens, int lines, int[] firstLines) {
        this.tokens = tokens;
        this.lines = lines;
        this.firstLines = firstLines;
    }

    /**
     * @param pieces [canvases][N]
     * @param width of a line
     * @param padding inside a token, left and right of its text
     * @param gap between tokens that close up
     */
    static CanvasLayout of(List<String[]> pieces, float width, float padding, float gap, Measure measure) {
        int count = 0;
        for (String[] canvas : pieces) {
            count += canvas.length;
        }
        Token[] tokens = new Token[count];
        int[] firstLines = new int[pieces.size()];
        float space = measure.width(" ");
        boolean mirrored = runsFromRight(pieces);
        int index = 0;
        int line = -1;
        for (int c = 0; c < pieces.size(); c++) {
            firstLines[c] = ++line;
            float x = 0;
            for (int i = 0; i < pieces.get(c).length; i++) {
                String piece = pieces.get(c)[i];
                String text = visible(piece);
                Token token = new Token(text, c, i, measure.width(text) + 2 * padding);
                float before = x == 0 ? 0 : piece.startsWith(" ") ? space : gap;
                if (x > 0 && x + before + token.width > width) {
                    line++;
                    x = 0;
                    before = 0;
                }
                token.line = line;
                token.left = mirrored ? width - (x + before + token.width) : x + before;
                x += before + token.width;
                if (piece.endsWith("\n") && i + 1 < pieces.get(c).length) {
                    line++;
                    x = 0;
                }
                tokens[index++] = token;
            }
        }
        return new CanvasLayout(tokens, line + 1, firstLines);
    }

    /** What stands for a piece: its text without outer spaces, signs for what cannot be seen. */
    static String visible(String piece) {
        if (piece.isEmpty()) {
            return MARKER;
        }
        String text = piece.replace("\n", LINE_END).replace("\t", "⇥").trim();
        return text.isEmpty() ? "\u00a0" : text;
    }

    /** The first strong character decides, as in a paragraph of text. */
    static boolean runsFromRight(List<String[]> pieces) {
        for (String[] canvas : pieces) {
            for (String piece : canvas) {
                for (int i = 0; i < piece.length(); i += Character.charCount(piece.codePointAt(i))) {
                    switch (Character.getDirectionality(piece.codePointAt(i))) {
                        case Character.DIRECTIONALITY_LEFT_TO_RIGHT:
                            return false;
                        case Character.DIRECTIONALITY_RIGHT_TO_LEFT:
                        case Character.DIRECTIONALITY_RIGHT_TO_LEFT_ARABIC:
                            return true;
                        default:
                            break;
                    }
                }
            }
        }
        return false;
    }
}
