package org.dgemma.demo;

import android.app.ActivityManager;
import android.content.Context;
import android.content.Intent;
import android.content.IntentFilter;
import android.os.BatteryManager;
import android.os.Build;
import android.os.Debug;
import android.os.PowerManager;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Facts of the device that a measurement depends on, as JSON values. No serial number, no account, no location. */
final class DeviceInfo {
    private static final String[] THERMAL = {
        "none", "light", "moderate", "severe", "critical", "emergency", "shutdown",
    };

    private final Context context;

    DeviceInfo(Context context) {
        this.context = context.getApplicationContext();
    }

    /** What does not change: the device and its system. */
    Map<String, Object> fixed() {
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("manufacturer", Build.MANUFACTURER);
        found.put("model", Build.MODEL);
        found.put("device", Build.DEVICE);
        found.put("hardware", Build.HARDWARE);
        found.put("soc", soc());
        List<Object> abis = new ArrayList<>();
        Collections.addAll(abis, (Object[]) Build.SUPPORTED_ABIS);
        found.put("abis", abis);
        found.put("android", Build.VERSION.RELEASE);
        found.put("sdk", (long) Build.VERSION.SDK_INT);
        found.put("security_patch", Build.VERSION.SECURITY_PATCH);
        found.put("memory_bytes", memory().totalMem);
        found.put("low_ram", context.getSystemService(ActivityManager.class).isLowRamDevice());
        return found;
    }

    /** What a run heats, drains and fills: taken before and after. */
    Map<String, Object> momentary() {
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("thermal_status", thermal());
        found.put("battery", battery());
        PowerManager power = context.getSystemService(PowerManager.class);
        found.put("power_save", power.isPowerSaveMode());
        ActivityManager.MemoryInfo memory = memory();
        Debug.MemoryInfo own = new Debug.MemoryInfo();
        Debug.getMemoryInfo(own);
        Map<String, Object> bytes = new LinkedHashMap<>();
        bytes.put("available_bytes", memory.availMem);
        bytes.put("low", memory.lowMemory);
        bytes.put("threshold_bytes", memory.threshold);
        bytes.put("own_pss_bytes", own.getTotalPss() * 1024L);
        bytes.put("own_private_dirty_bytes", own.getTotalPrivateDirty() * 1024L);
        bytes.put("native_heap_bytes", Debug.getNativeHeapAllocatedSize());
        found.put("memory", bytes);
        return found;
    }

    /** Maker and model of the chip; null before Android 12. */
    @Nullable String soc() {
        return Build.VERSION.SDK_INT >= 31 ? Build.SOC_MANUFACTURER + " " + Build.SOC_MODEL : null;
    }

    /** none … shutdown; null before Android 10. */
    @Nullable String thermal() {
        if (Build.VERSION.SDK_INT < 29) {
            return null;
        }
        int status = context.getSystemService(PowerManager.class).getCurrentThermalStatus();
        return status >= 0 && status < THERMAL.length ? THERMAL[status] : String.valueOf(status);
    }

    /** level (percent), temperature_c, charging, voltage_v; null where the device has none. */
    @Nullable Map<String, Object> battery() {
        Intent state = context.registerReceiver(null, new IntentFilter(Intent.ACTION_BATTERY_CHANGED));
        int level = state == null ? -1 : state.getIntExtra(BatteryManager.EXTRA_LEVEL, -1);
        int scale = state == null ? -1 : state.getIntExtra(BatteryManager.EXTRA_SCALE, -1);
        if (state == null || level < 0 || scale <= 0) {
            return null;
        }
        Map<String, Object> found = new LinkedHashMap<>();
        found.put("level", (long) Math.round(100f * level / scale));
        found.put("temperature_c", state.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, 0) / 10.0);
        found.put("voltage_v", state.getIntExtra(BatteryManager.EXTRA_VOLTAGE, 0) / 1000.0);
        found.put("charging", state.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) != 0);
        return found;
    }

    ActivityManager.MemoryInfo memory() {
        ActivityManager.MemoryInfo info = new ActivityManager.MemoryInfo();
        context.getSystemService(ActivityManager.class).getMemoryInfo(info);
        return info;
    }
}
