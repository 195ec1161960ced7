package org.dgemma.format;

import java.math.BigDecimal;
import java.math.MathContext;
import java.math.RoundingMode;

/** Python's {@code repr} of a float. {@code Double.toString} is not the shortest decimal before JDK 19, nor on Android. */
final class FloatRepr {
    private static final int MOST_DIGITS = 17; // so many always read back

    private FloatRepr() {}

    static String of(double value) {
        if (Double.isNaN(value)) {
            return "nan";
        }
        if (Double.isInfinite(value)) {
            return value > 0 ? "inf" : "-inf";
        }
        String sign = value < 0 || 1 / value < 0 ? "-" : "";
        return sign + (value == 0 ? "0.0" : notation(shortest(Math.abs(value))));
    }

    private static BigDecimal shortest(double value) {
        BigDecimal exact = new BigDecimal(value);
        for (int digits = 1; digits < MOST_DIGITS; digits++) {
            BigDecimal below = exact.round(new MathContext(digits, RoundingMode.DOWN));
            BigDecimal above = exact.round(new MathContext(digits, RoundingMode.UP));
            BigDecimal near = exact.round(new MathContext(digits, RoundingMode.HALF_EVEN));
            // At a power of two the gap below is half the gap above, so that the farther neighbour may be the one that reads back.
            for (BigDecimal candidate : new BigDecimal[] {near, near.equals(below) ? above : below}) {
                if (candidate.doubleValue() == value) {
                    return candidate;
                }
            }
        }
        return exact.round(new MathContext(MOST_DIGITS, RoundingMode.HALF_EVEN));
    }

    private static String notation(BigDecimal value) {
        BigDecimal plain = value.stripTrailingZeros();
        String digits = plain.unscaledValue().toString();
        int point = digits.length() - plain.scale(); // digits before the decimal point
        if (point > 16 || point < -3) {
            int exponent = point - 1;
            String fraction = digits.length() == 1 ? "" : "." + digits.substring(1);
            String size = Integer.toString(Math.abs(exponent));
            return digits.charAt(0) + fraction + (exponent < 0 ? "e-" : "e+") + (size.length() == 1 ? "0" : "") + size;
        }
        String text = plain.toPlainString();
        return text.indexOf('.') < 0 ? text + ".0" : text;
    }
}
