package org.dgemma.runtime.structure;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayInputStream;
import java.util.Base64;
import java.util.List;
import org.dgemma.runtime.Repository;
import org.dgemma.runtime.UsageException;
import org.junit.Test;

/** The automata of compiled structures are those that Python wrote. */
public class CompiledStructureTest {
    private static final CallForm FORM = new CallForm("gemma", "None", 48, 49, 52);

    @Test
    public void automataAreThoseOfPython() throws Exception {
        int calls = 0;
        for (Object each : (List<?>) Repository.json("tests/vectors/compiled.json").get("files")) {
            List<?> entry = (List<?>) each;
            byte[] data = Base64.getDecoder().decode((String) entry.get(1));
            CompiledStructure read = CompiledStructure.read(new ByteArrayInputStream(data));
            ByteAutomaton automaton = read.automaton(FORM);
            assertEquals(entry.toString(), ((Long) entry.get(2)).intValue(), automaton.states);
            assertEquals(entry.toString(), entry.get(3), StructureVectorsTest.digest(automaton));
            assertEquals(entry.get(4), read.choices);
            if (read.isCall()) {
                calls++;
                assertEquals("structure is a call of a tool, and this bundle does not support tools; use another bundle",
                        assertThrows(UsageException.class, () -> read.automaton(null)).getMessage());
                CallForm other = new CallForm("gemma", "nil", 48, 49, 52);
                assertEquals("structure is a call as another bundle writes it; compile it for this bundle",
                        assertThrows(UsageException.class, () -> read.automaton(other)).getMessage());
            } else {
                assertEquals(automaton, read.automaton(null));
            }
        }
        assertTrue(calls > 2);
    }
}
