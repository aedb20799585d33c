package fleet;

import java.lang.management.ManagementFactory;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Counts messages, one instance a thread. A thread of its own looks at the sum each 10 ms and tells the CPU time when
 * a fifth of the input is done (the JIT has warmed up then) and when all of it is.
 */
public final class Meter {
    private static final long LOOK_MS = 10;
    private static final List<AtomicLong> COUNTS = new CopyOnWriteArrayList<>();

    private final AtomicLong count = new AtomicLong();

    public Meter(long total) {
        synchronized (COUNTS) {
            if (COUNTS.isEmpty()) {
                Thread looker = new Thread(() -> look(total), "meter");
                looker.setDaemon(true);
                looker.start();
            }
            COUNTS.add(count);
        }
    }

    /** One more message of this thread's. */
    public void count() {
        count.lazySet(count.get() + 1);
    }

    private static void look(long total) {
        try {
            for (long mark : new long[] {total / 5, total}) {
                while (done() < mark) {
                    Thread.sleep(LOOK_MS);
                }
                tell();
            }
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
        }
    }

    private static long done() {
        return COUNTS.stream().mapToLong(AtomicLong::get).sum();
    }

    private static void tell() {
        var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        System.out.printf(
                "{\"done\": %d, \"cpu_ns\": %d, \"time_ms\": %d}%n",
                done(), system.getProcessCpuTime(), System.currentTimeMillis());
        System.out.flush();
    }
}
