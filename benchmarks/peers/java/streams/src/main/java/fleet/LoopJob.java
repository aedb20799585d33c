package fleet;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** The common job in a plain consumer's loop, state in a map that nothing keeps: the JVM's floor, no peer. */
public final class LoopJob {
    private static final long COMMIT_MS = 5000;

    public static void main(String[] arguments) {
        Options options = Options.parse(arguments);
        Job job = new Job(options.signals());
        Meter meter = new Meter(options.total());
        Map<String, double[]> states = new HashMap<>();
        try (var consumer = new KafkaConsumer<>(
                        consumer(options), new StringDeserializer(), new ByteArrayDeserializer());
                var producer = new KafkaProducer<>(
                        producer(options), new StringSerializer(), new ByteArraySerializer())) {
            consumer.subscribe(List.of(options.input()));
            long committed = System.currentTimeMillis();
            while (true) {
                for (var frame : consumer.poll(Duration.ofMillis(100))) {
                    String device = frame.key();
                    double[] state = states.computeIfAbsent(device, name -> job.fresh());
                    job.advance(state, frame.value(), device);
                    if (job.features != null) {
                        producer.send(new ProducerRecord<>(options.features(), device, job.features));
                    }
                    if (job.alert != null) {
                        producer.send(new ProducerRecord<>(options.alerts(), device, job.alert));
                    }
                    meter.count();
                }
                if (System.currentTimeMillis() - committed >= COMMIT_MS) {
                    producer.flush();
                    consumer.commitSync();
                    committed = System.currentTimeMillis();
                }
            }
        }
    }

    private static Properties consumer(Options options) {
        Properties config = new Properties();
        config.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, options.bootstrap());
        config.put(ConsumerConfig.GROUP_ID_CONFIG, options.group());
        config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        config.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        config.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 5000);
        config.put(ConsumerConfig.FETCH_MIN_BYTES_CONFIG, 64 << 10);
        return config;
    }

    private static Properties producer(Options options) {
        Properties config = new Properties();
        config.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, options.bootstrap());
        config.put(ProducerConfig.LINGER_MS_CONFIG, 100);
        return config;
    }
}
