package fleet;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Properties;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.DataStreamUtils;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;

/**
 * The common job in Flink's DataStream API: keyed state on the heap, checkpoints each 5 s, records reused.
 *
 * <p>chained: the source's partitioning is taken for the keys' (no shuffle). That is right with one thread only.
 */
public final class FlinkJob {
    private static final TypeInformation<Tuple2<String, byte[]>> RECORD =
            Types.TUPLE(Types.STRING, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);
    private static final OutputTag<Tuple2<String, byte[]>> ALERTS = new OutputTag<>("alerts", RECORD);

    public static void main(String[] arguments) throws Exception {
        Options options = Options.parse(arguments);
        int threads = options.chained() ? 1 : options.threads();
        StreamExecutionEnvironment env =
                StreamExecutionEnvironment.createLocalEnvironment(threads, config(options));
        DataStream<Tuple2<String, byte[]>> frames =
                env.fromSource(source(options), WatermarkStrategy.noWatermarks(), "frames");
        KeyedStream<Tuple2<String, byte[]>, String> keyed = options.chained()
                ? DataStreamUtils.reinterpretAsKeyedStream(frames, frame -> frame.f0, Types.STRING)
                : frames.keyBy(frame -> frame.f0, Types.STRING);
        SingleOutputStreamOperator<Tuple2<String, byte[]>> features =
                keyed.process(new Fleet(options.signals(), options.total()), RECORD).name("fleet");
        features.sinkTo(sink(options, options.features())).name("features");
        features.getSideOutput(ALERTS).sinkTo(sink(options, options.alerts())).name("alerts");
        env.execute(options.group());
    }

    private static Configuration config(Options options) {
        Configuration config = new Configuration();
        config.set(PipelineOptions.OBJECT_REUSE, true);
        config.set(StateBackendOptions.STATE_BACKEND, "hashmap");
        config.set(CheckpointingOptions.CHECKPOINTING_INTERVAL, Duration.ofSeconds(5));
        config.set(
                CheckpointingOptions.CHECKPOINTING_CONSISTENCY_MODE,
                options.exactlyOnce() ? CheckpointingMode.EXACTLY_ONCE : CheckpointingMode.AT_LEAST_ONCE);
        config.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        config.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, "file://" + options.folder());
        return config;
    }

    private static KafkaSource<Tuple2<String, byte[]>> source(Options options) {
        return KafkaSource.<Tuple2<String, byte[]>>builder()
                .setBootstrapServers(options.bootstrap())
                .setTopics(options.input())
                .setGroupId(options.group())
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setDeserializer(new Reader())
                .setProperty("fetch.min.bytes", String.valueOf(64 << 10))
                .setProperty("max.poll.records", "5000")
                .build();
    }

    private static KafkaSink<Tuple2<String, byte[]>> sink(Options options, String topic) {
        Properties producer = new Properties();
        producer.put("linger.ms", "100");
        producer.put("transaction.timeout.ms", "60000");
        var builder = KafkaSink.<Tuple2<String, byte[]>>builder()
                .setBootstrapServers(options.bootstrap())
                .setKafkaProducerConfig(producer)
                .setRecordSerializer(new Writer(topic))
                .setDeliveryGuarantee(
                        options.exactlyOnce() ? DeliveryGuarantee.EXACTLY_ONCE : DeliveryGuarantee.AT_LEAST_ONCE);
        if (options.exactlyOnce()) {
            builder.setTransactionalIdPrefix(topic);
        }
        return builder.build();
    }

    private static final class Reader implements KafkaRecordDeserializationSchema<Tuple2<String, byte[]>> {
        private static final long serialVersionUID = 1L;

        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> frame, Collector<Tuple2<String, byte[]>> out) {
            out.collect(Tuple2.of(new String(frame.key(), StandardCharsets.UTF_8), frame.value()));
        }

        @Override
        public TypeInformation<Tuple2<String, byte[]>> getProducedType() {
            return RECORD;
        }
    }

    private record Writer(String topic) implements KafkaRecordSerializationSchema<Tuple2<String, byte[]>> {
        @Override
        public ProducerRecord<byte[], byte[]> serialize(
                Tuple2<String, byte[]> record, KafkaSinkContext context, Long timestamp) {
            return new ProducerRecord<>(topic, record.f0.getBytes(StandardCharsets.UTF_8), record.f1);
        }
    }

    private static final class Fleet
            extends KeyedProcessFunction<String, Tuple2<String, byte[]>, Tuple2<String, byte[]>> {
        private static final long serialVersionUID = 1L;

        private final int signals;
        private final long total;
        private transient Job job;
        private transient Meter meter;
        private transient ValueState<double[]> held;

        Fleet(int signals, long total) {
            this.signals = signals;
            this.total = total;
        }

        @Override
        public void open(OpenContext context) {
            job = new Job(signals);
            meter = new Meter(total);
            held = getRuntimeContext()
                    .getState(new ValueStateDescriptor<>(
                            "state", PrimitiveArrayTypeInfo.DOUBLE_PRIMITIVE_ARRAY_TYPE_INFO));
        }

        @Override
        public void processElement(
                Tuple2<String, byte[]> frame, Context context, Collector<Tuple2<String, byte[]>> out)
                throws Exception {
            double[] state = held.value();
            if (state == null) {
                state = job.fresh();
            }
            job.advance(state, frame.f1, frame.f0);
            held.update(state);
            if (job.features != null) {
                out.collect(Tuple2.of(frame.f0, job.features));
            }
            if (job.alert != null) {
                context.output(ALERTS, Tuple2.of(frame.f0, job.alert));
            }
            meter.count();
        }
    }
}
