package org.dgemma.runtime.bench;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Seconds of one load: of the check of all files with what belongs to it, and of the graphs. */
final class Load {
    private final double checkS;
    private final double graphsS;

    Load(double checkS, double graphsS) {
        this.checkS = checkS;
        this.graphsS = graphsS;
    }

    double seconds() {
        return checkS + graphsS;
    }

    private Map<String, Object> toMap() {
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("check_s", checkS);
        found.put("graphs_s", graphsS);
        found.put("load_s", seconds());
        return found;
    }

    /** The first load of the process counts as cold, though the page cache stays as it was; the others are warm. */
    static Map<String, Object> toMap(List<Load> loads) {
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("cold_means", "the first load of this process; the page cache was left as it was");
        found.put("packed_weights", "not known");
        found.put("cold", loads.get(0).toMap());
        List<Load> warm = loads.subList(Math.min(1, loads.size() - 1), loads.size());
        Map<String, Object> spread = new LinkedHashMap<>();
        for (String name : loads.get(0).toMap().keySet()) {
            List<Double> values = new ArrayList<>();
            for (Load load : warm) {
                values.add((Double) load.toMap().get(name));
            }
            spread.put(name, Stats.quartiles(values));
        }
        found.put("warm", spread);
        return found;
    }
}
