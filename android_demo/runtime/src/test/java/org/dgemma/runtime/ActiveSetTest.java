package org.dgemma.runtime;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.Test;

/** Which positions run, step by step, told by hand: early commits, growing, ending at a stop token, recheck. */
public class ActiveSetTest {
    private static final int N = 8;
    private static final int STOP = 1;
    /** Below and above the bound. */
    private static final float SURE = 0.001f;
    private static final float OPEN = 3;
    private static final ComputePolicy EARLY = ComputePolicy.ALL.earlyCommit(0.01);

    /** What a step gives: ids and entropies by position, 7 and OPEN where it says nothing. */
    private static final class Gives {
        final Map<Integer, Integer> ids = new HashMap<>();
        final Map<Integer, Float> entropies = new HashMap<>();

        Gives at(int position, int id, float entropy) {
            ids.put(position, id);
            entropies.put(position, entropy);
            return this;
        }
    }

    private static Gives sure(int... positions) {
        Gives gives = new Gives();
        for (int position : positions) {
            gives.at(position, 7, SURE);
        }
        return gives;
    }

    private static Gives all(float entropy) {
        Gives gives = new Gives();
        for (int i = 0; i < N; i++) {
            gives.at(i, 7, entropy);
        }
        return gives;
    }

    private ActiveSet state;
    private final List<List<Integer>> ran = new ArrayList<>();
    private final List<Boolean> done = new ArrayList<>();

    private void run(ComputePolicy compute, Gives... steps) throws Exception {
        Manifest manifest = Bundle.open(ToyBundle.write(values ->
                values.put("sampler", ToyBundle.object("steps", ToyBundle.STEPS, "confidence_threshold", 0.3)))).manifest();
        state = new ActiveSet(N, compute, manifest.sampler, new int[] {STOP, 5});
        ran.clear();
        done.clear();
        for (Gives gives : steps) {
            int[] rows = state.begin();
            int[] ids = new int[rows.length];
            float[] entropies = new float[rows.length];
            List<Integer> seen = new ArrayList<>();
            for (int i = 0; i < rows.length; i++) {
                seen.add(rows[i]);
                ids[i] = gives.ids.getOrDefault(rows[i], 7);
                entropies[i] = gives.entropies.getOrDefault(rows[i], OPEN);
            }
            ran.add(seen);
            done.add(state.take(rows, ids, entropies, new boolean[rows.length]));
        }
    }

    private static List<Integer> list(Integer... positions) {
        return Arrays.asList(positions);
    }

    private static final List<Integer> EVERYTHING = list(0, 1, 2, 3, 4, 5, 6, 7);

    @Test
    public void committedPositionsLeaveAndTheirIdsStay() throws Exception {
        run(EARLY, sure(0, 2, 3), sure(1, 4, 5, 6), new Gives().at(7, 9, SURE));
        assertEquals(Arrays.asList(EVERYTHING, list(1, 4, 5, 6, 7), list(7)), ran);
        assertEquals(Arrays.asList(false, false, true), done);
        assertArrayEquals(new int[] {7, 7, 7, 7, 7, 7, 7, 9}, state.argmax);
    }

    @Test
    public void aCanvasGrowsUntilItIsWhole() throws Exception {
        run(EARLY.startWidth(2), sure(0, 1), sure(2), sure(3, 4, 5, 6, 7));
        assertEquals(Arrays.asList(list(0, 1), list(2, 3), list(3, 4, 5, 6, 7)), ran);
        assertEquals(Arrays.asList(false, false, true), done);
        assertEquals(N, state.width());
    }

    @Test
    public void aStopTokenEndsTheGrowingAndWhatFollowsLeavesOnceItIsCommitted() throws Exception {
        run(EARLY.startWidth(4), sure(0).at(1, STOP, SURE));
        assertEquals(Arrays.asList(true), done);
        assertEquals(2, state.width());
        run(EARLY.startWidth(4), sure(0).at(1, STOP, OPEN), new Gives().at(1, STOP, SURE));
        assertEquals(Arrays.asList(list(0, 1, 2, 3), list(1, 2, 3)), ran);
        assertEquals(Arrays.asList(false, true), done);
        assertEquals(2, state.width());
        assertArrayEquals(new int[] {7, STOP}, Arrays.copyOf(state.argmax, 2));
    }

    @Test
    public void ofTwoStopTokensTheFirstThatIsCommittedEndsIt() throws Exception {
        run(EARLY, new Gives().at(2, 5, SURE).at(5, STOP, SURE).at(1, STOP, OPEN), new Gives());
        assertEquals(3, state.width());
        assertEquals(list(0, 1), ran.get(1));
    }

    @Test
    public void aStopTokenThatWasNotOneLetsItGrow() throws Exception {
        run(EARLY.startWidth(2), new Gives().at(1, 5, OPEN), new Gives(), new Gives());
        assertEquals(Arrays.asList(list(0, 1), list(0, 1), list(0, 1, 2, 3)), ran);
        assertFalse(done.contains(true));
    }

    @Test
    public void theAdaptiveStopHoldsForThePositionsThatThereAre() throws Exception {
        Gives near = all(0.2f);
        run(EARLY, near, near);
        assertEquals(Arrays.asList(false, true), done);
        run(EARLY, near, all(0.2f).at(0, 8, 0.2f)); // it changed
        assertEquals(Arrays.asList(false, false), done);
        run(EARLY, near, all(0.2f).at(0, 7, OPEN)); // it is unsure on the whole
        assertEquals(Arrays.asList(false, false), done);
        run(EARLY.startWidth(4), near, near, near); // not before it has grown
        assertEquals(Arrays.asList(false, false, true), done);
        Gives ended = new Gives().at(0, 7, 0.9f).at(1, STOP, SURE);
        run(EARLY, ended, ended); // what is not there any more is certain: 0.9 / 8
        assertEquals(Arrays.asList(false, true), done);
        Gives unsure = new Gives().at(0, 7, OPEN).at(1, STOP, SURE);
        run(EARLY, unsure, unsure);
        assertEquals(Arrays.asList(false, false), done);
    }

    @Test
    public void recheckRunsEverythingOnceMoreAndGoesOnWhereThatChanges() throws Exception {
        run(EARLY.recheck(true), all(SURE), all(SURE));
        assertEquals(Arrays.asList(EVERYTHING, EVERYTHING), ran);
        assertEquals(Arrays.asList(false, true), done);
        run(EARLY.recheck(true), all(SURE), all(SURE).at(0, 7, OPEN), sure(0), all(SURE));
        assertEquals(Arrays.asList(EVERYTHING, EVERYTHING, list(0), EVERYTHING), ran);
        assertEquals(Arrays.asList(false, false, false, true), done);
    }

    @Test
    public void stepsThatAreLeftRunEveryPositionAgain() throws Exception {
        run(EARLY, all(SURE), new Gives());
        assertEquals(Arrays.asList(EVERYTHING, EVERYTHING), ran);
        assertTrue(done.get(0));
    }

    @Test
    public void theBoundIsReadAsAFloat() throws Exception {
        run(ComputePolicy.ALL.earlyCommit(0.7), all(0.7f), new Gives()); // as a double 0.7f is below 0.7
        assertEquals("not below the bound", Arrays.asList(false, false), done);
    }

    @Test
    public void whatIsAskedFor() {
        assertTrue(ComputePolicy.ALL.isAll() && ComputePolicy.ALL.recheck(true).isAll());
        assertFalse(EARLY.isAll() || ComputePolicy.ALL.startWidthAuto().isAll() || ComputePolicy.ALL.startWidth(3).isAll());
        assertEquals(0.01, EARLY.speculate(true).nats(), 0);
        assertEquals(ComputePolicy.EARLY_COMMIT, ComputePolicy.ALL.startWidthAuto().recheck(true).nats(), 0);
        assertEquals("drafts commit sooner", ComputePolicy.DRAFT_EARLY_COMMIT,
                ComputePolicy.ALL.speculate(true).startWidth(2).nats(), 0);
        int[] widths = {EARLY.firstWidth(64), EARLY.startWidthAuto().firstWidth(64), EARLY.startWidth(8).firstWidth(64),
            EARLY.startWidth(64).firstWidth(64), EARLY.startWidthAuto().firstWidth(3)};
        assertArrayEquals(new int[] {64, 4, 8, 64, 1}, widths);
        for (double wrong : new double[] {0, -1, Double.NaN, Double.POSITIVE_INFINITY}) {
            SessionTest.says(UsageException.class, "must be a positive number of nats",
                    () -> ComputePolicy.ALL.earlyCommit(wrong));
        }
        SessionTest.says(UsageException.class, "startWidth 0 must be auto, or a number of positions, 1 or more",
                () -> ComputePolicy.ALL.startWidth(0));
        SessionTest.says(UsageException.class, "must be ComputePolicy.ALL", () -> GenerateOptions.DEFAULT.compute(null));
    }
}
