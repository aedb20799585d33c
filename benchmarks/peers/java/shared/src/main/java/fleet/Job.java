package fleet;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Locale;

/**
 * The common job's arithmetic. A device's state is one double[]: samples seen, the open window's start and count,
 * then mean, variance, sum, sum of squares, min, max and last of each signal.
 *
 * <p>An instance belongs to one thread; it holds the outcome of the last frame.
 */
public final class Job {
    private static final double ALPHA = 0.02;
    private static final double Z_SQUARED = 36.0;
    private static final int WARM = 20;
    private static final long WINDOW_US = 10_000_000L;
    /** Marker and fingerprint of the single-object encoding. */
    private static final int AVRO_HEADER = 10;
    private static final int HEAD = 3;
    private static final VarHandle FLOAT =
            MethodHandles.byteArrayViewVarHandle(float[].class, ByteOrder.LITTLE_ENDIAN);
    private static final VarHandle LONG =
            MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);

    /** Window start (int64) and 6 x signals float32, little endian; null: no window was closed. */
    public byte[] features;
    /** JSON; null: no alert. */
    public byte[] alert;

    private final int signals;
    private byte[] data;
    private int at;

    public Job(int signals) {
        this.signals = signals;
    }

    public double[] fresh() {
        double[] state = new double[HEAD + 7 * signals];
        state[1] = -1.0;
        return state;
    }

    /** Takes in a frame; changes the state. */
    public void advance(double[] state, byte[] frame, String device) {
        data = frame;
        at = AVRO_HEADER;
        skip(); // device_id
        skip(); // catalog
        varint(); // seq
        long ts = varint();
        long period = varint();
        long count = varint();
        if (count < 0) {
            count = -count;
            varint(); // bytes of the block
        }
        features = null;
        alert = null;
        double best = -1.0;
        int guilty = -1;
        long guiltyTs = 0;
        int steps = (int) count / signals;
        for (int step = 0; step < steps; step++) {
            long t = ts + step * period;
            long start = t - t % WINDOW_US;
            if (start != (long) state[1]) {
                if (state[1] >= 0.0) {
                    features = close(state);
                }
                open(state, start);
            }
            double seen = state[0];
            for (int s = 0; s < signals; s++, at += 4) {
                float x = (float) FLOAT.get(frame, at);
                double z2 = sample(state, s, x, seen);
                if (z2 > best) {
                    best = z2;
                    guilty = s;
                    guiltyTs = t;
                }
            }
            state[0] = seen + 1.0;
            state[2] += 1.0;
        }
        if (best > Z_SQUARED) {
            alert = String.format(
                            Locale.ROOT,
                            "{\"device\": \"%s\", \"ts\": %d, \"signal\": %d, \"z\": %s}",
                            device, guiltyTs, guilty, Math.sqrt(best))
                    .getBytes(StandardCharsets.UTF_8);
        }
    }

    /** Scores and learns a sample and adds it to the window; z squared, or -1 while it is not warm. */
    private double sample(double[] state, int s, double x, double seen) {
        int mean = HEAD + s;
        int var = mean + signals;
        int sum = var + signals;
        int squares = sum + signals;
        int min = squares + signals;
        int max = min + signals;
        double d = x - state[mean];
        double z2 = seen >= WARM ? d * d / state[var] : -1.0;
        if (seen == 0.0) {
            state[mean] = x;
        } else {
            double step = ALPHA * d;
            state[var] = (1.0 - ALPHA) * (state[var] + d * step);
            state[mean] += step;
        }
        state[sum] += x;
        state[squares] += x * x;
        state[min] = Math.min(state[min], x);
        state[max] = Math.max(state[max], x);
        state[max + signals] = x;
        return z2;
    }

    private void open(double[] state, long start) {
        state[1] = start;
        state[2] = 0.0;
        for (int s = 0; s < signals; s++) {
            int sum = HEAD + 2 * signals + s;
            state[sum] = 0.0;
            state[sum + signals] = 0.0;
            state[sum + 2 * signals] = Double.POSITIVE_INFINITY;
            state[sum + 3 * signals] = Double.NEGATIVE_INFINITY;
        }
    }

    private byte[] close(double[] state) {
        byte[] out = new byte[8 + 24 * signals];
        LONG.set(out, 0, (long) state[1]);
        double n = state[2];
        for (int s = 0; s < signals; s++) {
            int sum = HEAD + 2 * signals + s;
            double mean = state[sum] / n;
            double variance = state[sum + signals] / n - mean * mean;
            put(out, 0, s, n);
            put(out, 1, s, mean);
            put(out, 2, s, Math.sqrt(Math.max(variance, 0.0)));
            put(out, 3, s, state[sum + 2 * signals]);
            put(out, 4, s, state[sum + 3 * signals]);
            put(out, 5, s, state[sum + 4 * signals]);
        }
        return out;
    }

    private void put(byte[] out, int figure, int s, double value) {
        FLOAT.set(out, 8 + 4 * (figure * signals + s), (float) value);
    }

    private void skip() {
        int length = (int) varint();
        at += length;
    }

    private long varint() {
        long bits = 0;
        int shift = 0;
        byte b;
        do {
            b = data[at++];
            bits |= (long) (b & 0x7f) << shift;
            shift += 7;
        } while (b < 0);
        return (bits >>> 1) ^ -(bits & 1);
    }
}
