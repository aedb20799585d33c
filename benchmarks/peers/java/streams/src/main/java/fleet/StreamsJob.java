package fleet;

import java.nio.ByteBuffer;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** The common job in Kafka Streams: Processor API, an in-memory store with cache and changelog. */
public final class StreamsJob {
    private static final String STORE = "state";

    public static void main(String[] arguments) {
        Options options = Options.parse(arguments);
        KafkaStreams streams = new KafkaStreams(topology(options), config(options));
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }

    private static Topology topology(Options options) {
        Topology topology = new Topology();
        topology.addSource("frames", new StringDeserializer(), new ByteArrayDeserializer(), options.input());
        topology.addProcessor("fleet", () -> new Fleet(options), "frames");
        topology.addStateStore(
                Stores.keyValueStoreBuilder(
                                Stores.inMemoryKeyValueStore(STORE), Serdes.String(), doubles())
                        .withCachingEnabled(),
                "fleet");
        var keys = new StringSerializer();
        var values = new ByteArraySerializer();
        topology.addSink("features", options.features(), keys, values, "fleet");
        topology.addSink("alerts", options.alerts(), keys, values, "fleet");
        return topology;
    }

    private static Properties config(Options options) {
        Properties config = new Properties();
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, options.group());
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.bootstrap());
        config.put(StreamsConfig.STATE_DIR_CONFIG, options.folder());
        config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, options.threads());
        config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 5000);
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20);
        config.put(
                StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
                options.exactlyOnce() ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
        config.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        config.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5000);
        config.put(StreamsConfig.consumerPrefix(ConsumerConfig.FETCH_MIN_BYTES_CONFIG), 64 << 10);
        config.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 100);
        return config;
    }

    private static Serde<double[]> doubles() {
        return Serdes.serdeFrom(
                (topic, state) -> {
                    if (state == null) {
                        return null;
                    }
                    byte[] bytes = new byte[8 * state.length];
                    ByteBuffer.wrap(bytes).asDoubleBuffer().put(state);
                    return bytes;
                },
                (topic, bytes) -> {
                    if (bytes == null) {
                        return null;
                    }
                    double[] state = new double[bytes.length / 8];
                    ByteBuffer.wrap(bytes).asDoubleBuffer().get(state);
                    return state;
                });
    }

    private static final class Fleet implements Processor<String, byte[], String, byte[]> {
        private final Job job;
        private final Meter meter;
        private ProcessorContext<String, byte[]> context;
        private KeyValueStore<String, double[]> store;

        Fleet(Options options) {
            job = new Job(options.signals());
            meter = new Meter(options.total());
        }

        @Override
        public void init(ProcessorContext<String, byte[]> context) {
            this.context = context;
            store = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<String, byte[]> frame) {
            double[] state = store.get(frame.key());
            if (state == null) {
                state = job.fresh();
            }
            job.advance(state, frame.value(), frame.key());
            store.put(frame.key(), state);
            if (job.features != null) {
                context.forward(frame.withValue(job.features), "features");
            }
            if (job.alert != null) {
                context.forward(frame.withValue(job.alert), "alerts");
            }
            meter.count();
        }
    }
}
